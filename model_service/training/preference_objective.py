"""Learning from preferences: DPO (Rafailov et al. 2023), with the model the job started from as the reference.

    margin = (ln p(chosen) - ln p_ref(chosen)) - (ln p(rejected) - ln p_ref(rejected))
    loss   = -ln sigmoid(beta x margin)            ln 2 at the start, where the model is its own reference

The reference never changes, so that its log-probabilities are taken once, before the first step: with an adapter that
is the base with the adapter's own beginning, and no second model is held. Both texts of a pair lie in one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_service.training import evaluate
from model_service.training.dataset import Batch, Encoded, collate, pack
from model_service.training.gate import Floats
from model_service.training.loss import nats_per_example
from model_service.training.objective import Between, Look, StepBatch

ROWS_PER_LOOK = 8
SAME_NATS = 0.01  # a margin below this is rounding


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Token ids of both texts, prompt included, and what they cost the reference in nats."""

    chosen: Encoded
    rejected: Encoded
    reference: tuple[float, float]

    @property
    def texts(self) -> tuple[Encoded, Encoded]:
        """The better one first."""
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class PairPart:
    """Some rows of P pairs at most. reference: (B, P, 2) nats; is_pair: (B, P) bool, false beyond a row's last pair."""

    batch: Batch
    reference: Tensor
    is_pair: Tensor


@dataclass(frozen=True, slots=True)
class PreferenceMaterial:
    """Pairs to learn and to be watched by; no pair is longer than `row_len` tokens."""

    train: list[Pair]
    held_out: list[Pair]
    general: list[Encoded]
    row_len: int
    beta: float

    @property
    def num_examples(self) -> int:
        """Pairs to train on."""
        return len(self.train)

    def batch(self, picked: Sequence[int]) -> StepBatch:
        """Pack the pairs of a step into rows."""
        pairs = [self.train[i] for i in picked]
        rows = self._rows(pairs)
        num_tokens = sum(len(text.input_ids) - max(text.num_prompt, 1) for pair in pairs for text in pair.texts)

        def part(first: int, last: int, device: torch.device) -> PairPart:
            return lay_out(rows[first:last], device)

        return StepBatch(len(rows), len(pairs), num_tokens, part)

    def loss(self, model: Any, part: PairPart) -> Tensor:
        """Sum the loss over the pairs."""
        return -F.logsigmoid(self.beta * margins(model, part)).sum()

    def look(self, model: Any, step: int, *, max_rows: int, between: Between) -> Look:
        """Measure the held-out pairs and the general texts."""
        margin = self.margins(model, max_rows=max_rows, between=between)
        nats: Floats = np.logaddexp(0, -self.beta * margin)
        general = evaluate.losses(
            model, self.general, self.row_len, rows_per_batch=min(max_rows, evaluate.ROWS_PER_BATCH), between=between
        )
        figures = {"accuracy": accuracy(margin), "margin": float(margin.mean())}
        return Look(step, nats, np.ones(len(nats)), general.per_token, figures)

    @torch.no_grad()
    def margins(self, model: Any, *, max_rows: int, between: Between) -> Floats:
        """Return the held-out pairs' margins in nats, in their order: (N,)."""
        model.eval()
        device = next(model.parameters()).device
        rows, size = self._rows(self.held_out), min(max_rows, ROWS_PER_LOOK)
        found: dict[int, float] = {}
        for first in range(0, len(rows), size):
            between()
            part = rows[first : first + size]
            measured = margins(model, lay_out(part, device)).tolist()
            found |= {id(pair): value for pair, value in zip([p for row in part for p in row], measured, strict=True)}
        return np.asarray([found[id(pair)] for pair in self.held_out])

    def _rows(self, pairs: Sequence[Pair]) -> list[list[Pair]]:
        joined = {id(both): (both, pair) for pair in pairs for both in [_joined(pair)]}
        rows, too_long = pack([both for both, _ in joined.values()], self.row_len)
        assert not too_long
        return [[joined[id(both)][1] for both in row] for row in rows]


def lay_out(rows: Sequence[Sequence[Pair]], device: torch.device) -> PairPart:
    """Lay packed rows out as tensors: chosen, rejected, chosen, rejected, … in each."""
    width = max(sum(len(_joined(pair).input_ids) for pair in row) for row in rows)
    batch = collate([[text for pair in row for text in pair.texts] for row in rows], width, 0)
    shape = (len(rows), max(map(len, rows)))
    reference, is_pair = torch.zeros(*shape, 2), torch.zeros(shape, dtype=torch.bool)
    for b, row in enumerate(rows):
        reference[b, : len(row)] = torch.tensor([pair.reference for pair in row])
        is_pair[b, : len(row)] = True
    return PairPart(batch.to(device), reference.to(device), is_pair.to(device))


def margins(model: Any, part: PairPart) -> Tensor:
    """Return how much more than the reference a model prefers each chosen text: (N,) nats, row by row."""
    b, p, _ = part.reference.shape
    nats, _ = nats_per_example(model, part.batch, 2 * p)
    gained = part.reference - nats.view(b, p, 2)  # ln p - ln p_ref, as nats are -ln p
    return (gained[..., 0] - gained[..., 1])[part.is_pair]


def accuracy(margin: Floats) -> float:
    """Return the share of pairs whose chosen text gained more; one that moved neither way counts half."""
    return float((margin > SAME_NATS).mean() + (np.abs(margin) <= SAME_NATS).mean() / 2)


def refer(model: Any, pairs: Sequence[tuple[Encoded, Encoded]], row_len: int, *, between: Between) -> list[Pair]:
    """Take the reference's log-probabilities, from the model as it is before its first step."""
    texts = [text for pair in pairs for text in pair]
    nats = evaluate.losses(model, texts, row_len, between=between).nats.reshape(-1, 2).tolist()
    return [Pair(*pair, (chosen, rejected)) for pair, (chosen, rejected) in zip(pairs, nats, strict=True)]


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off for good: policy and reference would differ by luck, and so would every margin."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _joined(pair: Pair) -> Encoded:
    return Encoded([*pair.chosen.input_ids, *pair.rejected.input_ids], 0)
