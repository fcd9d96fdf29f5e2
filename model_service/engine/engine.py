"""Runs sequences on one model, on a thread of its own, and hands their pieces to the event loop.

    event loop                                     engine thread (step_loop.py)
    submit ── Stream ──┐        inbox              take ─> schedule ─> flights ─> pieces
                       ├─ Answer, Cancel, Close ─>  ^                               │
    Stream.put <───────┴────── one call_soon_threadsafe per step ──────────────────┘

Two threads share a queue, never an object. When the engine's thread gives up, every stream ends, and new ones are
refused.
"""

import asyncio
import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from model_service.engine.answer import Answer
from model_service.engine.detokenizer import token_bytes
from model_service.engine.engine_config import EngineConfig
from model_service.engine.flights import Flights
from model_service.engine.micro_batches import MicroBatches
from model_service.engine.readers import Events, Readers
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.engine.step_loop import Cancel, Close, Item, StepLoop
from model_service.engine.stream import Stream
from model_service.errors import EngineDead, ModelNotFound, PromptTooLong, QueueFull
from model_service.models.lora import Adapter

log = logging.getLogger(__name__)

T = TypeVar("T")


class Engine:
    """One loaded language model. Make it and use it on the event loop; `close` it before dropping it."""

    def __init__(
        self,
        config: EngineConfig,
        flights: Flights,
        tokenizer: Tokenizer,
        micro_batches: MicroBatches | None = None,
    ) -> None:
        """Start the thread. micro_batches: what to go by, and to teach, instead of finding it out anew."""
        self.config = config
        self.tokenizer = tokenizer
        self._flights = flights
        self._table = token_bytes(tokenizer)
        self._ids = itertools.count()
        self._readers = Readers(config.max_num_seqs, lambda sequence_id: self._inbox.put(Cancel(sequence_id)))
        self._adapters: dict[str, Adapter] = {}  # those that new sequences may ask for
        self._dead: EngineDead | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        micro_batches = micro_batches or MicroBatches(flights.num_stages)
        self._steps = StepLoop(config, flights, micro_batches, self._inbox, self._deliver)
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
    def generated_tokens(self) -> int:
        """Tokens drawn so far."""
        return self._steps.generated_tokens

    @property
    def reused_tokens(self) -> int:
        """Tokens of prompts that did not run: another sequence had computed them."""
        return self._steps.reused_tokens

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
        adapter = await asyncio.to_thread(self._flights.read_adapter, name, folder)
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
        self._inbox.put(Close())
        await asyncio.to_thread(self._thread.join)

    def _die(self, error: EngineDead) -> None:
        self._dead = self._dead or error
        self._readers.end_all(error)

    def _deliver(self, events: Events) -> None:
        self._call(self._readers.deliver, events)

    def _run(self) -> None:
        """Run steps; this is the engine's thread."""
        try:
            self._steps.run()
        except Exception:
            log.exception("the engine of %s is dead", self.model_id)
            self._call(self._die, EngineDead())

    def _call(self, function: Callable[[T], None], argument: T) -> None:
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            log.debug("no event loop for the engine of %s", self.model_id)
