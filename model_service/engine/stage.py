"""One part of a split model at work: messages in, messages out, in their order.

    Work(chunks, x=None) ─> [stage 0: layers 0-5] ─> Work(chunks, x) ─> [stage 1: layers 6-11] ─> Landed(results)

A stage is on a thread of its own (pipeline.py) or in a process of its own (stage_process.py); it does not know which.
Its row of messages is what keeps slots right: a transfer runs behind all chunks that were submitted before it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from model_service.engine.forward import Forward
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.engine.sequence import TokenLogprob
from model_service.models.lora import Adapter


@dataclass(frozen=True, slots=True)
class Wipe:
    """What is in a slot is broken."""

    slot: int


@dataclass(frozen=True, slots=True)
class Work:
    """What all stages do, one after the other: transfers, then the chunks' tokens.

    chunks: of copies of their sequences, as they were when it was submitted; a copy's adapter is its key, or None.
    x: what the stage before made of the chunks, (N, E). answered: whether the engine waits for the results.
    """

    transfers: tuple[Move | Copy | Wipe, ...]
    chunks: tuple[Chunk, ...] = ()
    x: Tensor | None = None
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Drawn:
    """A `Result` (runner.py) without its sequence, which stayed with the engine."""

    sequence_id: int
    token_id: int | None
    logprob: TokenLogprob | None
    prompt_logprobs: tuple[TokenLogprob, ...]
    finite: bool


@dataclass(frozen=True, slots=True)
class Landed:
    """What the last stage made of a work, or what went wrong in whichever stage."""

    drawn: tuple[Drawn, ...] = ()
    error: BaseException | None = None


Message = Work | Landed


class StageWorker:
    """A part of a model with its cache. `run` it with every message in turn, on one thread."""

    def __init__(self, forward: Forward, *, is_last: bool) -> None:
        self._forward = forward
        self._last = ModelRunner(forward) if is_last else None
        self._adapters: dict[int, Adapter] = {}
        self._error: Exception | None = None  # of a work that nobody waits for

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._forward.size_bytes

    def read_adapter(self, key: int, name: str, folder: Path) -> Adapter:
        """Read an adapter for sequences to carry by its key. On any thread. Raises CheckpointError."""
        self._adapters[key] = adapter = self._forward.read_adapter(name, folder)
        return adapter

    def drop_adapter(self, key: int) -> None:
        """Let go of an adapter that no sequence carries any more."""
        self._adapters.pop(key, None)

    def run(self, message: Message) -> Message | None:
        """Do this part of it; returns what goes on to the next stage, or from the last one to the engine."""
        if isinstance(message, Landed):
            return message
        try:
            if self._error and message.answered:
                raise self._error
            return self._work(message)
        except Exception as error:
            self._error = None if message.answered else error
            return Landed(error=error) if message.answered else None

    @torch.inference_mode()
    def _work(self, work: Work) -> Message | None:
        for transfer in work.transfers:
            match transfer:
                case Move():
                    self._forward.move(transfer)
                case Copy():
                    self._forward.copy(transfer)
                case Wipe(slot):
                    self._forward.clear(slot)
        x: Tensor | None = None
        drawn: tuple[Drawn, ...] = ()
        if work.chunks:
            chunks = [self._adapted(chunk) for chunk in work.chunks]
            x = self._forward.hidden(chunks, work.x)
            drawn = self._draw(chunks, x)
        if self._last is None:
            return replace(work, x=x)
        return Landed(drawn) if work.answered else None

    def _draw(self, chunks: list[Chunk], hidden: Tensor) -> tuple[Drawn, ...]:
        results = self._last.draw(chunks, hidden) if self._last else ()
        return tuple(Drawn(r.sequence.id, r.token_id, r.logprob, r.prompt_logprobs, r.finite) for r in results)

    def _adapted(self, chunk: Chunk) -> Chunk:
        """Give a chunk the adapter as this stage holds it."""
        if chunk.sequence.adapter is None:
            return chunk
        sequence = copy.copy(chunk.sequence)
        sequence.adapter = self._adapters[chunk.sequence.adapter]  # type: ignore[index]
        return replace(chunk, sequence=sequence)


def serve(stage: StageWorker, receive: Callable[[], Message | None], send: Callable[[Message | None], None]) -> None:
    """Run a stage until there is None instead of a message, which goes on to the next one."""
    while (message := receive()) is not None:
        if (made := stage.run(message)) is not None:
            send(made)
    send(None)
