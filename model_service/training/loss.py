"""The loss of packed rows, as a whole and per example. Every training loop and every evaluation uses these."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from model_service.training.dataset import IGNORE, Batch


def packed_loss(model: PreTrainedModel, batch: Batch, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats over all labelled tokens of a packed batch: () float32.

    `reduction` is `mean`, `sum`, or `none`; `none` gives (B, T-1), 0 where nothing is labelled.
    """
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask(),
        use_cache=False,
    ).logits
    labels = batch.labels[:, 1:]
    loss = F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        ignore_index=IGNORE,
        reduction=reduction,
    )
    return loss.view(labels.shape) if reduction == "none" else loss


def nats_per_example(model: PreTrainedModel, batch: Batch, num_segments: int) -> tuple[Tensor, Tensor]:
    """Sum the loss over each segment of each row: (nats, labelled tokens), both (B, num_segments).

    Segment s of a row is column s - 1; a column without tokens holds zeros.
    """
    nats = packed_loss(model, batch, "none")  # (B, T-1)
    segments, labelled = batch.segment_ids[:, 1:], batch.labels[:, 1:] != IGNORE
    shape = (len(segments), num_segments + 1)  # column 0 is the padding
    sums = torch.zeros(shape, device=nats.device).scatter_add_(1, segments, nats)
    counts = torch.zeros(shape, device=nats.device).scatter_add_(1, segments, labelled.float())
    return sums[:, 1:], counts[:, 1:]
