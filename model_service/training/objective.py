"""What a run minimises, and what it looks at: the part of training that differs from method to method.

    Loop ── batch(picked) ──> a step's rows ── part(first, last) ──> tensors ── loss ──> a sum of nats
         ── look(model)   ──> a Look: held-out loss per example, general loss

`Material` is that of jokes: several to a row, loss on the completion.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from model_service.training import evaluate
from model_service.training.dataset import Batch, Encoded, collate, spread
from model_service.training.gate import Floats
from model_service.training.loss import packed_loss

Between = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the held-out examples saw."""

    step: int
    nats: Floats  # (N,) per held-out example
    tokens: Floats  # (N,)
    general: float  # nats per token
    figures: Mapping[str, float] = field(default_factory=dict)  # what else there is to say, for the event

    @property
    def val_loss(self) -> float:
        """Nats per token over the held-out examples."""
        return float(self.nats.sum() / self.tokens.sum())


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The examples of one step. Its rows may go through the model in several parts.

    weight: what the summed loss is divided by. num_tokens: those that are learned from.
    """

    num_rows: int
    weight: float
    num_tokens: int
    part: Callable[[int, int, torch.device], Any]  # rows from the first up to the last, on a device


class Objective(Protocol):
    """A method of training."""

    @property
    def num_examples(self) -> int:
        """Examples to train on."""

    def batch(self, picked: Sequence[int]) -> StepBatch:
        """Lay out the examples of a step, by their places."""

    def loss(self, model: Any, part: Any) -> Tensor:
        """Return the loss summed over a part of a batch: () float32."""

    def look(self, model: Any, step: int, *, max_rows: int, between: Between) -> Look:
        """Measure the model on what it is not trained on. `between` is called now and then."""


class Report(Protocol):
    """Who is told how it goes."""

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        """Told after each step."""

    def look(self, look: Look, total_steps: int, is_best: bool) -> None:
        """Told after each look."""

    def warn(self, message: str) -> None:
        """Told what a person should know."""


@dataclass(frozen=True, slots=True)
class Material:
    """Jokes to learn and to be watched by; nothing is longer than `row_len` tokens."""

    train: list[Encoded]
    held_out: list[Encoded]
    general: list[Encoded]
    row_len: int

    @property
    def num_examples(self) -> int:
        """Jokes to train on."""
        return len(self.train)

    def batch(self, picked: Sequence[int]) -> StepBatch:
        """Pack the jokes of a step into rows."""
        examples = [self.train[i] for i in picked]
        rows = spread(examples, self.row_len)
        width = max(sum(len(e.input_ids) for e in row) for row in rows)
        num_tokens = sum(len(e.input_ids) - max(e.num_prompt, 1) for e in examples)

        def part(first: int, last: int, device: torch.device) -> Batch:
            return collate(rows[first:last], width, 0).to(device)

        return StepBatch(len(rows), num_tokens, num_tokens, part)

    def loss(self, model: Any, part: Batch) -> Tensor:
        """Sum the loss over the completions."""
        return packed_loss(model, part, "sum")

    def look(self, model: Any, step: int, *, max_rows: int, between: Between) -> Look:
        """Measure the held-out jokes and the general texts."""
        rows = min(max_rows, evaluate.ROWS_PER_BATCH)
        held_out = evaluate.losses(model, self.held_out, self.row_len, rows_per_batch=rows, between=between)
        general = evaluate.losses(model, self.general, self.row_len, rows_per_batch=rows, between=between)
        return Look(step, held_out.nats, held_out.tokens, general.per_token)
