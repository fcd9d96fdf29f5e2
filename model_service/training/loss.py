"""The loss of packed rows, as a whole and per example. Every training loop and every evaluation uses these.

The head of a small GPT-2 is a third of its work, so that it reads only the positions that predict something: neither
prompts nor padding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.training.dataset import IGNORE, Batch


def packed_loss(model: Any, batch: Batch, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats over all labelled tokens of a packed batch: () float32.

    model: a language model of transformers, or one with an adapter of PEFT. `reduction` is `mean`, `sum`, or `none`;
    `none` gives (B, T-1), 0 where nothing is labelled.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask(),
        use_cache=False,
    ).last_hidden_state
    labels = batch.labels[:, 1:]
    labelled = labels != IGNORE
    logits = inner.get_output_embeddings()(hidden[:, :-1][labelled]).float()  # (labelled, V)
    if reduction != "none":
        return F.cross_entropy(logits, labels[labelled], reduction=reduction)
    nats = torch.zeros(labels.shape, device=logits.device)
    nats[labelled] = F.cross_entropy(logits, labels[labelled], reduction="none")
    return nats


def nats_per_example(model: Any, batch: Batch, num_segments: int) -> tuple[Tensor, Tensor]:
    """Sum the loss over each segment of each row: (nats, labelled tokens), both (B, num_segments).

    Segment s of a row is column s - 1; a column without tokens holds zeros.
    """
    nats = packed_loss(model, batch, "none")  # (B, T-1)
    segments, labelled = batch.segment_ids[:, 1:], batch.labels[:, 1:] != IGNORE
    shape = (len(segments), num_segments + 1)  # column 0 is the padding
    sums = torch.zeros(shape, device=nats.device).scatter_add_(1, segments, nats)
    counts = torch.zeros(shape, device=nats.device).scatter_add_(1, segments, labelled.float())
    return sums[:, 1:], counts[:, 1:]
