"""Runs sequences on one model, on a thread of its own, and hands their pieces to the event loop.

    event loop                                     engine thread
    submit ── Stream ──┐        inbox              take ─> schedule ─> runner.step ─> pieces
                       ├─ Submit, Cancel, Close ─>  ^                                   │
    Stream.put <───────┴────── one call_soon_threadsafe per step ──────────────────────┘

Two threads share a queue, never an object. A step that raises fails the sequences that run and the
engine goes on; after three such steps in a row it is dead: every stream ends, and new ones are refused.
"""

import asyncio
import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from model_service.engine.answer import Answer
from model_service.engine.detokenizer import token_bytes
from model_service.engine.engine_config import EngineConfig
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.readers import Events, Readers
from model_service.engine.runner import Result, Runner
from model_service.engine.scheduler import Copy, Plan, Scheduler
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.engine.stream import Stream
from model_service.errors import DeadlinePassed, EngineDead, ModelNotFound, PromptTooLong, QueueFull, ServiceError
from model_service.models.lora import Adapter

log = logging.getLogger(__name__)

T = TypeVar("T")
BAD_STEPS = 3  # in a row, and the engine gives up


@dataclass(frozen=True, slots=True)
class _Cancel:
    sequence_id: int


@dataclass(frozen=True, slots=True)
class _Close:
    pass


class Engine:
    """One loaded language model. Make it and use it on the event loop; `close` it before dropping it."""

    def __init__(self, config: EngineConfig, runner: Runner, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.generated_tokens = 0
        self.reused_tokens = 0  # of prompts: another sequence had computed them
        self._runner = runner
        self._table = token_bytes(tokenizer)
        self._ids = itertools.count()
        self._readers = Readers(config.max_num_seqs, lambda sequence_id: self._inbox.put(_Cancel(sequence_id)))
        self._adapters: dict[str, Adapter] = {}  # those that new sequences may ask for
        self._dead: EngineDead | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[Answer | _Cancel | _Close] = queue.SimpleQueue()
        self._scheduler = Scheduler(  # engine thread only, as is what follows
            config.max_num_seqs, PrefillBudget(least=config.min_prefill_tokens), config.shares
        )
        self._answers: dict[int, Answer] = {}
        self._bad_steps = 0
        self._thread = threading.Thread(target=self._run, name=f"engine-{config.model_id}", daemon=True)
        self._thread.start()

    @property
    def model_id(self) -> str:
        """What people choose it by."""
        return self.config.model_id

    @property
    def context_len(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.config.context_len

    @property
    def vocab_size(self) -> int:
        """Ids below this are tokens."""
        return self.config.vocab_size

    @property
    def weights(self) -> str:
        """The number format of the weights."""
        return self.config.weights

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self.config.size_bytes

    @property
    def device_map(self) -> tuple[tuple[str, str], ...]:
        """Which layers are on which device."""
        return self.config.device_map

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return self._readers.num_waiting

    @property
    def num_running(self) -> int:
        """Sequences with a slot."""
        return len(self._readers) - self._readers.num_waiting

    @property
    def alive(self) -> bool:
        """Whether it takes sequences."""
        return self._dead is None

    def encode(self, text: str) -> list[int]:
        """Tokenize without adding anything; an empty text has no tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def token_text(self, token_id: int) -> str:
        """Return one token as text; a part of a character reads as U+FFFD."""
        return self._table[token_id].decode("utf-8", "replace") if token_id < len(self._table) else ""

    async def load_adapter(self, name: str, folder: Path) -> int:
        """Read an adapter; sequences that are submitted with its name from now on use it. Returns its bytes.

        Raises CheckpointError. Nothing waits for it: the files are read in a thread, and what runs goes on.
        """
        adapter = await asyncio.to_thread(self._runner.read_adapter, name, folder)
        self._adapters[name] = adapter
        return adapter.size_bytes

    def drop_adapter(self, name: str) -> None:
        """Refuse new sequences with this adapter; its memory is free when the last running one has ended."""
        self._adapters.pop(name, None)

    def submit(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        user: str = "",
        adapter: str = "",
        *,
        deadline_s: float | None = None,
    ) -> Stream:
        """Queue a sequence; an empty prompt starts from end-of-text. adapter: by name; without one, the model itself.

        deadline_s: seconds from now after which it ends with DeadlinePassed, whether it waits or runs by then.
        Raises PromptTooLong, QueueFull, EngineDead, or ModelNotFound for an adapter that is not loaded.
        """
        prompt_ids = prompt_ids or [self.config.eos_token_id]
        if self._dead:
            raise self._dead
        if adapter and adapter not in self._adapters:
            raise ModelNotFound(adapter, list(self._adapters))
        if len(prompt_ids) + params.max_tokens > self.context_len:
            raise PromptTooLong(len(prompt_ids), params.max_tokens, self.context_len)
        if len(self._readers) >= self.config.max_num_seqs + self.config.max_queue:
            raise QueueFull(retry_after_s=self._readers.eta_s(self.num_waiting))
        self._loop = asyncio.get_running_loop()
        seed = secrets.randbits(64) if params.seed is None else params.seed
        sequence = Sequence(next(self._ids), prompt_ids, params, seed, user, self._adapters.get(adapter))
        if deadline_s is not None:
            sequence.limit(deadline_s, time.monotonic())
        stream = self._readers.add(sequence.id, user)
        self._inbox.put(Answer(sequence, self._table, self.config.eos_token_id))
        return stream

    async def close(self) -> None:
        """End every stream with EngineDead and stop the thread."""
        self._die(EngineDead("The model was unloaded while it was answering. Try again."))
        self._inbox.put(_Close())
        await asyncio.to_thread(self._thread.join)

    def _die(self, error: EngineDead) -> None:
        self._dead = self._dead or error
        self._readers.end_all(error)

    # --- engine thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take():
                self._end_expired()
                if not self._scheduler.idle:
                    self._tell(self._step())
        except Exception:
            log.exception("the engine of %s is dead", self.model_id)
            self._call(self._die, EngineDead())

    def _take(self) -> bool:
        """Read the inbox, waiting only when there is nothing to run; false when it is time to stop."""
        while True:
            try:
                item = self._inbox.get(block=self._scheduler.idle)
            except queue.Empty:
                return True
            match item:
                case _Close():
                    return False
                case _Cancel(sequence_id):
                    if answer := self._answers.pop(sequence_id, None):
                        self._release(answer.sequence)
                case Answer():
                    self._answers[item.sequence.id] = item
                    self._scheduler.add(item.sequence)

    def _end_expired(self) -> None:
        events = Events(started=[], pieces=[])
        for sequence in self._scheduler.expired(time.monotonic()):
            events.pieces.append((sequence.id, DeadlinePassed(sequence.limit_s)))
            self._end(sequence)
        self._tell(events)

    def _step(self) -> Events:
        began = time.perf_counter()
        plan = self._scheduler.schedule()
        events = Events(started=[sequence.id for sequence in plan.started], pieces=[])
        try:
            results = self._run_plan(plan)
        except Exception as error:
            self._bad_steps += 1
            if self._bad_steps == BAD_STEPS:
                raise
            self._fail(error, events)
            return events
        self._bad_steps = 0
        self.reused_tokens = self._scheduler.reused_tokens
        for chunk in plan.chunks:
            chunk.sequence.num_computed = chunk.end
        for result in results:
            self._answer(result, events)
        took_s = time.perf_counter() - began
        self._scheduler.budget.record(plan.num_streams, plan.num_prompt_tokens, took_s)
        return events

    def _run_plan(self, plan: Plan) -> list[Result]:
        for transfer in plan.transfers:
            if isinstance(transfer, Copy):
                self._runner.copy(transfer)
            else:
                self._runner.move(transfer)
        return self._runner.step(plan.chunks)

    def _fail(self, error: Exception, events: Events) -> None:
        """End every running sequence: nobody knows how far a step came that raised."""
        failed = self._scheduler.drop_running()
        log.error("a step of %s failed; the %d sequences in it end", self.model_id, len(failed), exc_info=error)
        failure = ServiceError("The model failed while it was answering. Try again in a moment.")
        failure.__cause__ = error
        for sequence in failed:
            self._answers.pop(sequence.id, None)
            events.pieces.append((sequence.id, failure))

    def _answer(self, result: Result, events: Events) -> None:
        """Add what a result means for its reader, and let the sequence go if that was its end."""
        sequence = result.sequence
        if not result.finite:
            self._runner.clear(sequence.slot)
            self._scheduler.forget(sequence.slot)
            events.pieces.append((sequence.id, ServiceError("The model's numbers broke on this prompt. Change it.")))
            self._end(sequence)
            return
        self.generated_tokens += result.token_id is not None
        piece = self._answers[sequence.id].add(result)
        if piece is None:
            return
        if piece.text or piece.token_ids or piece.finish_reason:
            events.pieces.append((sequence.id, piece))
        if piece.finish_reason:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._answers.pop(sequence.id, None)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if move := self._scheduler.finish(sequence):
            self._runner.move(move)

    def _tell(self, events: Events) -> None:
        if events.started or events.pieces:
            self._call(self._readers.deliver, events)

    def _call(self, function: Callable[[T], None], argument: T) -> None:
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            log.debug("no event loop for the engine of %s", self.model_id)
