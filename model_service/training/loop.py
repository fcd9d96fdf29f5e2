"""The training loop: FP32 weights, packed rows, looks at the held-out jokes, checkpoints, resume.

    step ─ step ─ step ─ look ─ step ─ … ─ look        a look: held-out loss per joke, general loss
                          └ best so far? keep its weights; save a checkpoint

The order of the examples and the dropout of a step depend on the seed and the step alone, so a run that
was killed and resumed ends like one that was not.
"""

import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from model_service.training.base_model import put, trainable
from model_service.training.checkpoints import Checkpoints
from model_service.training.dataset import Encoded, collate, pack
from model_service.training.evaluate import losses
from model_service.training.gate import Floats, Limits, cross_fit
from model_service.training.loss import packed_loss
from model_service.training.recipe import Recipe

log = logging.getLogger(__name__)

ROWS_PER_FORWARD = 16  # a larger batch is summed up from parts
GENERAL_MARGIN = 0.9  # of the gate's limit: rounding the weights to FP16 moves the loss a little


class TrainingFailed(Exception):
    """The job cannot end well, and a restart would meet the same; the message is for people."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


BROKEN_BASE = TrainingFailed(
    "The model it started from gives no finite loss: its own weights are broken. Choose another model.", "broken_base"
)


class Interrupted(Exception):
    """The run was asked to stop; its newest checkpoint is of this very step, and it can go on later."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a run learns from and is watched by; nothing is longer than `row_len` tokens."""

    train: list[Encoded]
    held_out: list[Encoded]
    general: list[Encoded]
    row_len: int


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the held-out jokes saw."""

    step: int
    nats: Floats  # (N,) per held-out joke
    tokens: Floats  # (N,)
    general: float  # nats per token

    @property
    def val_loss(self) -> float:
        """Nats per token over the held-out jokes."""
        return float(self.nats.sum() / self.tokens.sum())


class Report(Protocol):
    """Who is told how it goes."""

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        """Told after each step."""

    def look(self, look: Look, total_steps: int, is_best: bool) -> None:
        """Told after each look."""


class Loop:
    """One run over `material`. `check` is called between steps and may raise Interrupted."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        material: Material,
        checkpoints: Checkpoints,
        report: Report,
        *,
        check: Callable[[], None],
        checkpoint_every_s: float,
    ) -> None:
        self.model, self._recipe, self._material = model, recipe, material
        self._checkpoints, self._report, self._check = checkpoints, report, check
        self._checkpoint_every_s = checkpoint_every_s
        self._device = next(model.parameters()).device
        self._optimizer = torch.optim.AdamW(
            trainable(model).values(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )
        self._autocast, self._scaler = _precision(self._device)
        self.total_steps = recipe.total_steps(len(material.train))
        self.num_trained_tokens = 0
        self.step = 0
        self.looks: list[Look] = []
        self._best: int | None = None  # index into looks
        self._last_loss = math.nan
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the end, or until the held-out loss has stopped falling. Raises TrainingFailed or Interrupted."""
        self._restore()
        try:
            while True:
                if self._is_look_due():
                    self._look()
                if self.step == self.total_steps or self._has_stopped_learning():
                    break
                self._check()
                self._train_step()
                if time.monotonic() - self._saved_at > self._checkpoint_every_s and not self._is_look_due():
                    self.save()
        except Interrupted:
            self.save()
            raise

    @property
    def best(self) -> Look:
        """The look whose weights `load_best` brings back."""
        assert self._best is not None
        return self.looks[self._best]

    def load_best(self) -> None:
        """Put the best step's weights into the model."""
        put(self.model, self._checkpoints.load_best(self.best.step))

    def is_allowed(self, look: Look) -> bool:
        """Say whether a look's model has kept enough of its general knowledge."""
        limit = 1 + Limits().max_general_rise * GENERAL_MARGIN
        return look.step > 0 and look.general <= self.looks[0].general * limit

    def judged(self) -> Floats:
        """Return the held-out losses as the gate may judge them: (N,), see `gate.cross_fit`."""
        trained = self.looks[1:]
        allowed = [self.is_allowed(look) for look in trained]
        return cross_fit([look.nats for look in trained], allowed if any(allowed) else [True] * len(allowed))

    def _train_step(self) -> None:
        examples = self._examples_of(self.step)
        rows, _ = pack(examples, self._material.row_len)
        width = max(sum(len(e.input_ids) for e in row) for row in rows)
        num_tokens = sum(len(e.input_ids) - max(e.num_prompt, 1) for e in examples)
        learning_rate = self._recipe.lr_at(self.step, self.total_steps)
        torch.manual_seed(self._recipe.seed * 1_000_003 + self.step)
        self.model.train()
        total = 0.0
        for start in range(0, len(rows), ROWS_PER_FORWARD):
            batch = collate(rows[start : start + ROWS_PER_FORWARD], width, 0).to(self._device)
            with self._autocast():
                loss = packed_loss(self.model, batch, "sum") / num_tokens
            total += loss.item()
            if not math.isfinite(total):
                raise self._not_finite("loss")
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._update(learning_rate)
        self.step += 1
        self.num_trained_tokens += num_tokens
        self._last_loss = total
        self._report.step(self.step, self.total_steps, total, learning_rate)

    def _update(self, learning_rate: float) -> None:
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(trainable(self.model).values(), self._recipe.max_grad_norm)
        if not self._scaler.is_enabled() and not torch.isfinite(norm):  # an enabled scaler skips such a step by itself
            raise self._not_finite("gradient")
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _not_finite(self, what: str) -> TrainingFailed:
        return TrainingFailed(
            f"Training stopped at step {self.step + 1}: the {what} is no longer a finite number. Nothing of it is used,"
            " and the old model is untouched. A lower learning_rate_multiplier usually helps.",
            "non_finite_loss",
        )

    def _examples_of(self, step: int) -> list[Encoded]:
        per_epoch = math.ceil(len(self._material.train) / self._recipe.batch_size)
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(self._material.train)))
        random.Random(f"{self._recipe.seed}-order-{epoch}").shuffle(order)
        picked = order[place * self._recipe.batch_size : (place + 1) * self._recipe.batch_size]
        return [self._material.train[i] for i in picked]

    def _look(self) -> None:
        material = self._material
        held_out = losses(self.model, material.held_out, material.row_len, between=self._check)  # FP32, as at the end
        general = losses(self.model, material.general, material.row_len, between=self._check)
        look = Look(self.step, held_out.nats, held_out.tokens, general.per_token)
        if not np.isfinite(look.nats).all() or not math.isfinite(look.general):
            raise self._not_finite("held-out loss") if self.step else BROKEN_BASE
        self.looks.append(look)
        is_best = self.step > 0 and (self._best is None or self._rank(look) < self._rank(self.best))
        if is_best:
            self._best = len(self.looks) - 1
            self._checkpoints.save_best(self.step, trainable(self.model))
        self._report.look(look, self.total_steps, is_best)
        self.save()

    def _rank(self, look: Look) -> tuple[bool, float]:
        """Lower is better: first what the gate's general limit allows, then by held-out loss."""
        allowed = self.is_allowed(look)
        return (not allowed, look.val_loss if allowed else look.general)

    def _is_look_due(self) -> bool:
        due = self.step % self._recipe.eval_every(self.total_steps) == 0 or self.step == self.total_steps
        return due and (not self.looks or self.looks[-1].step != self.step)

    def _has_stopped_learning(self) -> bool:
        return self._best is not None and len(self.looks) - 1 - self._best >= self._recipe.patience

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        state = {
            "best_step": None if self._best is None else self.best.step,
            "last_loss": None if math.isnan(self._last_loss) else self._last_loss,
            "num_trained_tokens": self.num_trained_tokens,
            "scaler": self._scaler.state_dict(),
            "looks": [
                {"step": k.step, "nats": k.nats.tolist(), "tokens": k.tokens.tolist(), "general": k.general}
                for k in self.looks
            ],
        }
        self._checkpoints.save(self.step, trainable(self.model), self._optimizer.state_dict(), state)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        saved = self._checkpoints.newest()
        if saved is None:
            return
        weights, optimizer, state = saved
        put(self.model, weights)
        self._optimizer.load_state_dict(optimizer)
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.num_trained_tokens = state["step"], state["num_trained_tokens"]
        self._last_loss = math.nan if state["last_loss"] is None else state["last_loss"]
        self.looks = [
            Look(k["step"], np.asarray(k["nats"]), np.asarray(k["tokens"]), k["general"]) for k in state["looks"]
        ]
        steps = [look.step for look in self.looks]
        self._best = None if state["best_step"] is None else steps.index(state["best_step"])
        log.info("resumed at step %d of %d", self.step, self.total_steps)


def _precision(device: torch.device) -> tuple[Callable[[], AbstractContextManager[Any]], torch.amp.GradScaler]:
    """BF16, or FP16 with a scaler, on a GPU; plain FP32 on a CPU. The weights are FP32 everywhere."""
    if device.type != "cuda":
        return nullcontext, torch.amp.GradScaler("cpu", enabled=False)
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    return lambda: torch.autocast("cuda", dtype=dtype), scaler
