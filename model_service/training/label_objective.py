"""Learning labels: texts packed like jokes, one label read at the last token of each, as the service reads it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.training.dataset import Batch, Encoded, collate, pack
from model_service.training.gate import Floats
from model_service.training.objective import Between, Look, StepBatch

ROWS_PER_LOOK = 8


@dataclass(frozen=True, slots=True, eq=False)
class LabelledText:
    """Token ids of a text, and the id of its label. Two are equal only if they are the same object."""

    encoded: Encoded
    label: int


@dataclass(frozen=True, slots=True)
class LabelPart:
    """Some rows. ends: where each text's last token is, as (row, column); labels: (N,) int64, in the same order."""

    batch: Batch
    ends: tuple[Tensor, Tensor]
    labels: Tensor


@dataclass(frozen=True, slots=True)
class LabelMaterial:
    """Texts to learn and to be watched by; nothing is longer than `row_len` tokens."""

    train: list[LabelledText]
    held_out: list[LabelledText]
    row_len: int

    @property
    def num_examples(self) -> int:
        """Texts to train on."""
        return len(self.train)

    def batch(self, picked: Sequence[int]) -> StepBatch:
        """Pack the texts of a step into rows."""
        texts = [self.train[i] for i in picked]
        rows = self._rows(texts)
        num_tokens = sum(len(text.encoded.input_ids) for text in texts)

        def part(first: int, last: int, device: torch.device) -> LabelPart:
            return lay_out(rows[first:last], device)

        return StepBatch(len(rows), len(texts), num_tokens, part)

    def loss(self, model: Any, part: LabelPart) -> Tensor:
        """Sum the cross-entropy over the texts."""
        return F.cross_entropy(label_logits(model, part), part.labels, reduction="sum")

    def look(self, model: Any, step: int, *, max_rows: int, between: Between) -> Look:
        """Measure the held-out texts; `general` has no meaning here and is 0."""
        logits = self.logits(model, max_rows=max_rows, between=between)
        labels = torch.tensor([text.label for text in self.held_out])
        nats: Floats = F.cross_entropy(logits, labels, reduction="none").double().numpy()
        accuracy = float((logits.argmax(-1) == labels).double().mean())
        return Look(step, nats, np.ones(len(nats)), 0.0, {"accuracy": accuracy})

    @torch.no_grad()
    def logits(self, model: Any, *, max_rows: int, between: Between) -> Tensor:
        """Return what the model makes of the held-out texts, in their order: (N, labels) float32, on the CPU."""
        model.eval()
        device = next(model.parameters()).device
        rows = self._rows(self.held_out)
        found: dict[int, Tensor] = {}
        size = min(max_rows, ROWS_PER_LOOK)
        for first in range(0, len(rows), size):
            between()
            part = rows[first : first + size]
            logits = label_logits(model, lay_out(part, device)).float().cpu()
            found |= {id(text): row for text, row in zip([t for row in part for t in row], logits, strict=True)}
        return torch.stack([found[id(text)] for text in self.held_out])

    def _rows(self, texts: Sequence[LabelledText]) -> list[list[LabelledText]]:
        whose = {id(text.encoded): text for text in texts}
        rows, too_long = pack([text.encoded for text in texts], self.row_len)
        assert not too_long
        return [[whose[id(encoded)] for encoded in row] for row in rows]


def lay_out(rows: Sequence[Sequence[LabelledText]], device: torch.device) -> LabelPart:
    """Lay packed rows out as tensors."""
    width = max(sum(len(text.encoded.input_ids) for text in row) for row in rows)
    batch = collate([[text.encoded for text in row] for row in rows], width, 0)
    lengths = [[len(text.encoded.input_ids) for text in row] for row in rows]
    where = [(b, end - 1) for b, row in enumerate(lengths) for end in itertools.accumulate(row)]
    b, t = torch.tensor(where).T
    labels = torch.tensor([text.label for row in rows for text in row])
    return LabelPart(batch.to(device), (b.to(device), t.to(device)), labels.to(device))


def label_logits(model: Any, part: LabelPart) -> Tensor:
    """Return (N, labels): the head's answer at the last token of each text."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(
        input_ids=part.batch.input_ids,
        position_ids=part.batch.position_ids,
        attention_mask=part.batch.attention_mask(),
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = inner.score(hidden[part.ends].float())
    return logits.float()
