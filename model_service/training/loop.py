"""The training loop: FP32 weights, looks at the held-out examples, checkpoints, resume.

    step ─ step ─ step ─ look ─ step ─ … ─ look        a look: held-out loss per example, general loss
                          └ best so far? keep its weights; save a checkpoint

The order of the examples and the dropout of a step depend on the seed and the step alone, so a run that
was killed and resumed ends like one that was not.

    out of memory     the rows go through in smaller parts; the batch of a step stays what it was
    not finite        the run ends; what the best look before it saw is kept
"""

import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from model_service.training import precision
from model_service.training.base_model import put, trainable
from model_service.training.checkpoints import Checkpoints
from model_service.training.evaluate import finite
from model_service.training.gate import Floats, Limits, cross_fit
from model_service.training.objective import Look, Objective, Report, StepBatch
from model_service.training.optimizer import Optimizer
from model_service.training.out_of_memory import RowLimit, TooLarge
from model_service.training.parallel import Group, Passes, passes_of, whole
from model_service.training.recipe import Precision, Recipe
from model_service.training.stops import (
    BROKEN_BASE,
    TOO_LARGE,
    TOO_LARGE_FOR_ONE,
    NotFinite,
)
from model_service.training.stops import Interrupted as Interrupted
from model_service.training.stops import TrainingFailed as TrainingFailed

log = logging.getLogger(__name__)
Found = TypeVar("Found")

ROWS_PER_FORWARD = 16  # a larger batch is summed up from parts
GENERAL_MARGIN = 0.9  # of the gate's limit: rounding the weights to FP16 moves the loss a little
LEAST_SCALE = 2.0**-10  # of FP16's gradients; below it nothing is left that could be finite


class Loop:
    """One run. `check` is called between steps and may raise Interrupted."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        objective: Objective,
        checkpoints: Checkpoints,
        report: Report,
        *,
        check: Callable[[], None],
        checkpoint_every_s: float,
        computes: Precision = "float32",
        group: Group | None = None,
    ) -> None:
        self.model, self._recipe, self._objective = model, recipe, objective
        self._checkpoints, self._report, self._check = checkpoints, report, check
        self._checkpoint_every_s = checkpoint_every_s
        self._device = next(model.parameters()).device
        self._group = group or Group()
        self._pass = passes_of(model, recipe, self._group)
        self._optimizer = Optimizer(trainable(model), recipe)
        self._autocast = precision.autocast(computes, self._device)
        self._scaler = precision.scaler(computes, self._device)
        self.total_steps = recipe.total_steps(objective.num_examples)
        self.num_trained_tokens = 0
        self.step = 0
        self.looks: list[Look] = []
        self._best: int | None = None  # index into looks
        self._last_loss = math.nan
        self._rows = RowLimit(ROWS_PER_FORWARD)
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
                self._check_together()
                self.train_step()
                (due,) = self._group.agree(time.monotonic() - self._saved_at > self._checkpoint_every_s)
                if due and not self._is_look_due():
                    self.save()
        except NotFinite as error:
            self._end_at_the_last_finite(str(error))
        except Interrupted:
            self.save()
            raise

    @property
    def best(self) -> Look:
        """The look whose weights `load_best` brings back."""
        assert self._best is not None
        return self.looks[self._best]

    def load_best(self, model: Any = None) -> None:
        """Put the best step's weights into the model; into another one, which this process goes on with alone."""
        if model is not None:
            self.model, self._pass, self._group = model, Passes(model), Group()
        put(self.model, self._checkpoints.load_best(self.best.step))

    def _check_together(self) -> None:
        """Stop if any process of the group was asked to. Raises Interrupted."""
        try:
            self._check()
            asked = False
        except Interrupted:
            asked = True
        if self._group.agree(asked) == [True]:
            raise Interrupted

    def is_allowed(self, look: Look) -> bool:
        """Say whether a look's model has kept enough of its general knowledge."""
        limit = 1 + Limits().max_general_rise * GENERAL_MARGIN
        return look.step > 0 and look.general <= self.looks[0].general * limit

    def measure(self) -> Look:
        """Look at the held-out examples. Without autocast: nothing rounds but the base of an adapter."""
        between = self._check if self._group.size == 1 else lambda: None  # a group stops between steps only

        def look(max_rows: int) -> Look:
            found: Look = self._pass(
                lambda model: self._objective.look(model, self.step, max_rows=max_rows, between=between)
            )
            return found

        return self._within_memory(look, ROWS_PER_FORWARD)

    def judged(self) -> Floats:
        """Return the held-out losses as the gate may judge them: (N,), see `gate.cross_fit`."""
        trained = self.looks[1:]
        allowed = [self.is_allowed(look) for look in trained]
        return cross_fit([look.nats for look in trained], allowed if any(allowed) else [True] * len(allowed))

    def train_step(self) -> None:
        """Learn from the next batch. Raises NotFinite, or TrainingFailed without the memory for a row."""
        batch = self._objective.batch(self._picked(self.step))
        most = self._group.share(batch.num_rows)[1]
        loss = self._within_memory(lambda max_rows: self._gradients(batch, max_rows), most)
        learning_rate = self._recipe.lr_at(self.step, self.total_steps)
        self._update(learning_rate)
        self.step += 1
        self.num_trained_tokens += batch.num_tokens
        self._last_loss = loss
        self._report.step(self.step, self.total_steps, loss, learning_rate)

    def _gradients(self, batch: StepBatch, max_rows: int) -> float:
        """Add up the gradients of this process's rows, some at a time; returns the batch's loss. Raises NotFinite."""
        torch.manual_seed(self._recipe.seed * 1_000_003 + self.step + self._group.rank * 10_007)
        self.model.train()
        total = 0.0
        mine, most = self._group.share(batch.num_rows)
        for first in range(mine, mine + most, max_rows):
            last = min(first + max_rows, mine + most, batch.num_rows)
            idle = last <= first  # others have a row more: go along with them, but learn nothing
            part = batch.part(batch.num_rows - 1, batch.num_rows, self._device) if idle else None
            part = batch.part(first, last, self._device) if part is None else part
            with self._autocast():
                summed = self._pass(lambda model, part=part: self._objective.loss(model, part))
            loss = summed * (0.0 if idle else 1 / batch.weight)
            total += loss.item()
            # a group averages gradients, and the batch wants their sum
            self._scaler.scale(loss * self._group.size).backward()
        total = self._group.total(total)
        if not math.isfinite(total):
            raise NotFinite("the loss is no longer a finite number")
        return total

    def _update(self, learning_rate: float) -> None:
        stepped = self._optimizer.step(learning_rate, self._scaler)
        scaled = self._scaler.is_enabled() and self._scaler.get_scale() > LEAST_SCALE
        if not stepped and not scaled:  # a scaler that was too bold tries a smaller scale at the next step
            raise NotFinite("the gradient is no longer a finite number")

    def _within_memory(self, work: Callable[[int], Found], num_rows: int) -> Found:
        """Do work on so many rows at a time; with too little memory, again on half as many, down to single ones."""
        try:
            return self._rows.within(work, num_rows, self._say_halved)
        except TooLarge as error:
            raise TrainingFailed(TOO_LARGE, "out_of_memory") from error

    def _say_halved(self) -> None:
        if self._group.size > 1:
            raise TrainingFailed(TOO_LARGE_FOR_ONE, "out_of_memory")
        self._optimizer.forget()
        self._report.warn(
            f"The device ran out of memory at step {self.step + 1}; from here on at most {self._rows.limit} rows go"
            f" through the model at a time. A step still learns from {self._recipe.batch_size} examples."
        )

    def _end_at_the_last_finite(self, what: str) -> None:
        """Go back to the best look so far. Raises TrainingFailed if there is none."""
        if not self.looks:
            raise BROKEN_BASE
        stopped = f"Training stopped at step {self.step + 1}: {what}."
        advice = "A lower learning_rate_multiplier usually helps."
        if self._best is None:
            raise TrainingFailed(
                f"{stopped} Nothing of it is used, and the old model is untouched. {advice}", "non_finite_loss"
            )
        self._report.warn(
            f"{stopped} It ends at the last finite checkpoint: what was best until then, step {self.best.step}, is"
            f" judged. {advice}"
        )

    def _picked(self, step: int) -> list[int]:
        """Return the places of a step's examples."""
        num_examples, size = self._objective.num_examples, self._recipe.batch_size
        epoch, place = divmod(step, math.ceil(num_examples / size))
        order = list(range(num_examples))
        random.Random(f"{self._recipe.seed}-order-{epoch}").shuffle(order)
        return order[place * size : (place + 1) * size]

    def _look(self) -> None:
        look = self.measure()
        if not np.isfinite(look.nats).all() or not math.isfinite(look.general):
            raise NotFinite("the held-out loss is no longer a finite number")
        self.looks.append(look)
        is_best = self.step > 0 and (self._best is None or self._rank(look) < self._rank(self.best))
        if is_best:
            self._best = len(self.looks) - 1
            weights = whole(trainable(self.model))
            if self._group.leads:
                self._checkpoints.save_best(self.step, weights)
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
        """Write a checkpoint of this moment; weights that are not finite are never written. Raises NotFinite."""
        weights, optimizer = whole(trainable(self.model)), self._optimizer.state()
        if not finite(weights):
            raise NotFinite("some weights are no longer finite numbers")
        state = {
            "best_step": None if self._best is None else self.best.step,
            "last_loss": None if math.isnan(self._last_loss) else self._last_loss,
            "num_trained_tokens": self.num_trained_tokens,
            "max_rows": self._rows.limit,
            "scaler": self._scaler.state_dict(),
            "looks": [
                {"step": k.step, "nats": k.nats.tolist(), "tokens": k.tokens.tolist(), "general": k.general}
                for k in self.looks
            ],
        }
        if self._group.leads:
            self._checkpoints.save(self.step, weights, optimizer, state)
        self._group.wait()
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        saved = self._checkpoints.newest()
        self._group.wait()  # until all have read it, before somebody writes the next
        if saved is None:
            return
        weights, optimizer, state = saved
        put(self.model, weights)
        self._optimizer.restore(optimizer)
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.num_trained_tokens = state["step"], state["num_trained_tokens"]
        self._rows.limit = state["max_rows"]
        self._last_loss = math.nan if state["last_loss"] is None else state["last_loss"]
        self.looks = [
            Look(k["step"], np.asarray(k["nats"]), np.asarray(k["tokens"]), k["general"]) for k in state["looks"]
        ]
        steps = [look.step for look in self.looks]
        self._best = None if state["best_step"] is None else steps.index(state["best_step"])
        log.info("resumed at step %d of %d", self.step, self.total_steps)
