"""The engine's thread: takes what was submitted, schedules, runs, and tells what came of it.

    inbox ─> take ─> schedule ─> flights ─> results ─> pieces ─> tell, once per step

What a step came to is told when the next one is on its way: readers read then, and no device waits for them.

A model that is split has a step in flight in each of its stages (flights.py), over different sequences. A step that
raises fails the sequences that run, and the loop goes on; after three such steps in a row, or when a stage has died,
it raises.
"""

import contextlib
import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from model_service.engine.answer import Answer
from model_service.engine.engine_config import EngineConfig
from model_service.engine.flights import Flights, StageDied
from model_service.engine.micro_batches import MicroBatches
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.readers import Events
from model_service.engine.runner import Result
from model_service.engine.scheduler import Plan, Scheduler
from model_service.engine.sequence import Sequence, Status
from model_service.errors import DeadlinePassed, ServiceError

log = logging.getLogger(__name__)

BAD_STEPS = 3  # in a row, and the loop gives up


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody reads this sequence any more."""

    sequence_id: int


@dataclass(frozen=True, slots=True)
class Close:
    """Stop."""


Item = Answer | Cancel | Close


@dataclass(frozen=True, slots=True)
class _Flight:
    plan: Plan
    began: float  # seconds


class StepLoop:
    """`run` it on a thread of its own, which everything here belongs to; the counters may be read from others.

    tell: takes what each step came to.
    """

    def __init__(
        self,
        config: EngineConfig,
        flights: Flights,
        micro_batches: MicroBatches,
        inbox: "queue.SimpleQueue[Item]",
        tell: Callable[[Events], None],
    ) -> None:
        self.generated_tokens = 0
        self._model_id = config.model_id
        self._flights, self._micro_batches = flights, micro_batches
        self._inbox, self._tell = inbox, tell
        self._scheduler = Scheduler(config.max_num_seqs, PrefillBudget(least=config.min_prefill_tokens), config.shares)
        self._answers: dict[int, Answer] = {}
        self._in_flight: deque[_Flight] = deque()
        self._events = Events(started=[], pieces=[])  # not told yet
        self._bad_steps = 0

    @property
    def reused_tokens(self) -> int:
        """Tokens of prompts that did not run: another sequence had computed them."""
        return self._scheduler.reused_tokens

    def run(self) -> None:
        """Run until there is a `Close` in the inbox. Raises what the third bad step in a row raised."""
        try:
            while self._take():
                self._end_expired()
                self._submit()
                self._tell_all()
                if self._in_flight:
                    self._land()
        finally:
            self._tell_all()
            self._flights.close()

    def _take(self) -> bool:
        """Read the inbox, waiting only when there is nothing to run; false when it is time to stop."""
        while True:
            has_nothing_to_do = self._scheduler.idle and not self._in_flight
            if has_nothing_to_do:
                self._tell_all()
            try:
                item = self._inbox.get(block=has_nothing_to_do)
            except queue.Empty:
                return True
            match item:
                case Close():
                    return False
                case Cancel(sequence_id):
                    if answer := self._answers.pop(sequence_id, None):
                        self._release(answer.sequence)
                case Answer():
                    self._answers[item.sequence.id] = item
                    self._scheduler.add(item.sequence)

    def _end_expired(self) -> None:
        for sequence in self._scheduler.expired(time.monotonic()):
            self._events.pieces.append((sequence.id, DeadlinePassed(sequence.limit_s)))
            self._end(sequence)

    def _submit(self) -> None:
        """Let steps begin until there is one in each stage, or nothing left to compute."""
        num_streams = self._scheduler.num_streams
        micro_batches = self._micro_batches.choose(num_streams)
        share = math.ceil(num_streams / micro_batches) if micro_batches > 1 else None
        wanted = self._micro_batches.num_stages if self._scheduler.reads_prompts else micro_batches
        while len(self._in_flight) < wanted and not self._scheduler.idle:
            plan = self._scheduler.schedule(share)
            if self._in_flight and not (plan.chunks or plan.transfers or plan.started):
                break
            self._flights.submit(plan)
            self._in_flight.append(_Flight(plan, time.perf_counter()))
            for chunk in plan.chunks:
                chunk.sequence.num_computed = chunk.end

    def _land(self) -> None:
        """Wait for the oldest step in flight, and note what it came to."""
        flight = self._in_flight.popleft()
        plan = flight.plan
        self._events.started += [sequence.id for sequence in plan.started]
        try:
            results = self._flights.collect()
        except StageDied:
            raise
        except Exception as error:
            self._bad_steps += 1
            if self._bad_steps == BAD_STEPS:
                raise
            self._fail(error)
            return
        self._bad_steps = 0
        for chunk in plan.chunks:
            chunk.sequence.num_landed = chunk.end
        for result in sorted(results, key=lambda result: -result.sequence.slot):  # so that slots seldom have to move
            self._answer(result)
        took_s = time.perf_counter() - flight.began
        self._scheduler.budget.record(plan.num_streams, plan.num_prompt_tokens, took_s)
        self._micro_batches.record(plan.num_streams, plan.num_prompt_tokens, time.perf_counter())

    def _fail(self, error: Exception) -> None:
        """End every running sequence: nobody knows how far a step came that raised."""
        while self._in_flight:  # whatever became of those
            self._in_flight.popleft()
            with contextlib.suppress(Exception):
                self._flights.collect()
        failed = self._scheduler.drop_running()
        log.error("a step of %s failed; the %d sequences in it end", self._model_id, len(failed), exc_info=error)
        failure = ServiceError("The model failed while it was answering. Try again in a moment.")
        failure.__cause__ = error
        for sequence in failed:
            self._answers.pop(sequence.id, None)
            self._events.pieces.append((sequence.id, failure))

    def _answer(self, result: Result) -> None:
        """Add what a result means for its reader, and let the sequence go if that was its end."""
        sequence = result.sequence
        if sequence.status == Status.FINISHED:  # cancelled in flight
            return
        if not result.finite:
            self._flights.clear(sequence.slot)
            self._scheduler.forget(sequence.slot)
            self._events.pieces.append(
                (sequence.id, ServiceError("The model's numbers broke on this prompt. Change it."))
            )
            self._end(sequence)
            return
        self.generated_tokens += result.token_id is not None
        piece = self._answers[sequence.id].add(result)
        if piece is None:
            return
        if piece.text or piece.token_ids or piece.finish_reason:
            self._events.pieces.append((sequence.id, piece))
        if piece.finish_reason:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._answers.pop(sequence.id, None)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if move := self._scheduler.finish(sequence):
            self._flights.move(move)

    def _tell_all(self) -> None:
        """Tell the readers what has come of it so far."""
        if self._events.started or self._events.pieces:
            self._tell(self._events)
            self._events = Events(started=[], pieces=[])
