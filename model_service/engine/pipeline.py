"""Runs a model that is split over several devices, with a step over different sequences in each of its stages.

    engine ── submit ──> | stage 0 | ──> | stage 1 | ──> … ──> collect ── engine
                           step c          step b                step a

A device that waits for the one before it makes n devices as fast as one. Here each has work as long as there are as
many micro-batches as stages (micro_batches.py says when that pays), so n devices give nearly n times the tokens.
Literature: Huang et al., "GPipe" (2019), for training; serving engines call it pipeline parallelism.
"""

import copy
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from model_service.engine.flights import StageDied
from model_service.engine.forward import Forward
from model_service.engine.runner import Result, single_first
from model_service.engine.scheduler import Chunk, Move, Plan
from model_service.engine.sequence import Sequence
from model_service.engine.stage import Landed, Message, StageWorker, Wipe, Work, serve
from model_service.models.lora import Adapter

JOIN_LIMIT_S = 30.0  # a stage ends with the step it is in


class Stages(Protocol):
    """Stages in a row, wherever they run."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def send(self, message: Message) -> None:
        """Hand a message to the first one."""
        ...

    def receive(self) -> Message:
        """Wait for what comes out of the last one. Raises StageDied."""
        ...

    def read_adapter(self, key: int, name: str, folder: Path) -> Adapter:
        """Let each stage read an adapter. Blocks, on any thread. Raises CheckpointError."""
        ...

    def drop_adapter(self, key: int) -> None:
        """Let each stage forget an adapter. On any thread."""
        ...

    def close(self) -> None:
        """End them, after what is in flight."""
        ...


class Pipeline:
    """The engine's flights over stages in a row."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self._flying: deque[dict[int, Sequence]] = deque()  # the engine's sequences, by id, of each plan in flight
        self._keys: weakref.WeakKeyDictionary[Adapter, int] = weakref.WeakKeyDictionary()
        self._next_key = itertools.count(1)

    @property
    def num_stages(self) -> int:
        """Plans that keep all of it busy."""
        return len(self.stages)

    def submit(self, plan: Plan) -> None:
        """Run a plan behind those that are in flight."""
        chunks = tuple(self._copy(chunk) for chunk in single_first(plan.chunks))
        self._flying.append({chunk.sequence.id: chunk.sequence for chunk in plan.chunks})
        self.stages.send(Work(tuple(plan.transfers), chunks))

    def collect(self) -> list[Result]:
        """Wait for the oldest plan in flight. Raises what running it raised, or StageDied."""
        flying = self._flying.popleft()
        landed = self.stages.receive()
        assert isinstance(landed, Landed)
        if landed.error is not None:
            raise landed.error
        return [
            Result(flying[drawn.sequence_id], drawn.token_id, drawn.logprob, drawn.prompt_logprobs, drawn.finite)
            for drawn in landed.drawn
        ]

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold, behind what is in flight."""
        self.stages.send(Work((move,), answered=False))

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken, behind what is in flight."""
        self.stages.send(Work((Wipe(slot),), answered=False))

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        """Read an adapter for sequences to carry; its parts go with it. Blocks. Raises CheckpointError."""
        key = next(self._next_key)
        adapter = self.stages.read_adapter(key, name, folder)
        self._keys[adapter] = key
        weakref.finalize(adapter, _drop, weakref.ref(self.stages), key).atexit = False
        return adapter

    def close(self) -> None:
        """End the stages."""
        self.stages.close()

    def _copy(self, chunk: Chunk) -> Chunk:
        """Copy a chunk with its sequence's slot as it is now: the engine may give it another one soon."""
        sequence = copy.copy(chunk.sequence)
        if sequence.adapter is not None:
            sequence.adapter = self._keys[sequence.adapter]  # type: ignore[assignment]
        return replace(chunk, sequence=sequence)


def _drop(stages: "weakref.ref[Stages]", key: int) -> None:
    if (those := stages()) is not None:
        those.drop_adapter(key)


class ThreadStages:
    """Each stage on a thread of this process: for devices that compute by themselves, as GPUs do."""

    def __init__(self, forwards: Seq[Forward], name: str = "model") -> None:
        last = len(forwards) - 1
        self._workers = [StageWorker(forward, is_last=i == last) for i, forward in enumerate(forwards)]
        self._queues: list[queue.SimpleQueue[Message | None]] = [queue.SimpleQueue() for _ in range(len(forwards) + 1)]
        self._threads = [
            threading.Thread(target=_serve, args=(worker, before.get, after.put), name=f"stage-{i}-{name}", daemon=True)
            for i, (worker, (before, after)) in enumerate(
                zip(self._workers, itertools.pairwise(self._queues), strict=True)
            )
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._workers)

    def send(self, message: Message) -> None:
        """Hand a message to the first one."""
        self._queues[0].put(message)

    def receive(self) -> Message:
        """Wait for what comes out of the last one. Raises StageDied."""
        message = self._queues[-1].get()
        if message is None:
            raise StageDied("A stage of the model has ended.")
        return message

    def read_adapter(self, key: int, name: str, folder: Path) -> Adapter:
        """Let each stage read an adapter, on this thread: nothing that runs waits for it."""
        try:
            first, *_ = [worker.read_adapter(key, name, folder) for worker in self._workers]
            return copy.copy(first)  # the stages keep theirs until this one is gone
        except Exception:
            self.drop_adapter(key)
            raise

    def drop_adapter(self, key: int) -> None:
        """Let each stage forget an adapter."""
        for worker in self._workers:
            worker.drop_adapter(key)

    def close(self) -> None:
        """End them, after what is in flight."""
        self._queues[0].put(None)
        for thread in self._threads:
            thread.join(JOIN_LIMIT_S)


def _serve(worker: StageWorker, receive: Callable[[], Message | None], send: Callable[[Message | None], None]) -> None:
    """Run a stage; whatever happens, the next one hears of its end."""
    try:
        serve(worker, receive, send)
    except BaseException:
        send(None)
        raise


def pipelined(forwards: Seq[Forward], name: str = "model") -> Pipeline:
    """Run the parts of a model, each on the device it is on, one thread for each."""
    return Pipeline(ThreadStages(forwards, name))
