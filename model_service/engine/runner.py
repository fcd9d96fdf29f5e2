"""Runs one step on the model: the chunks' tokens in one pass, then one new token per sequence that is due.

The engine only knows `Runner`; tests script one without a model.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from model_service.engine.forward import Forward
from model_service.engine.sampler import sample, token_logprobs
from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.engine.sequence import Sequence, TokenLogprob
from model_service.models.lora import Adapter


@dataclass(frozen=True, slots=True)
class Result:
    """What a step made of a chunk: a token if it was due, log-probabilities if they were asked for.

    `finite` is false where the model's numbers broke; then there is no token.
    """

    sequence: Sequence
    token_id: int | None = None
    logprob: TokenLogprob | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finite: bool = True


class Runner(Protocol):
    """What the engine needs to run sequences."""

    def step(self, chunks: Seq[Chunk]) -> list[Result]:
        """Compute the chunks' tokens and draw what is due; results in any order."""
        ...

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold; see `Move` for how much of it counts."""
        ...

    def copy(self, copy: Copy) -> None:
        """Give a slot the beginning of what another holds."""
        ...

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken."""
        ...

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        """Read an adapter for sequences to carry. Blocks, on any thread. Raises CheckpointError."""
        ...


def single_first(chunks: Seq[Chunk]) -> list[Chunk]:
    """Return the chunks in the order that forward passes want: single tokens before prompts, else as they are."""
    return sorted(chunks, key=lambda c: c.end - c.start > 1)  # the sort is stable


class ModelRunner:
    """Runs a model and draws from its logits."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold."""
        self._forward.move(move)

    def copy(self, copy: Copy) -> None:
        """Give a slot the beginning of what another holds."""
        self._forward.copy(copy)

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken."""
        self._forward.clear(slot)

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        """Read an adapter for sequences to carry. Blocks, on any thread. Raises CheckpointError."""
        return self._forward.read_adapter(name, folder)

    @torch.inference_mode()
    def step(self, chunks: Seq[Chunk]) -> list[Result]:
        """Run one forward pass over all chunks and draw the due tokens."""
        chunks = single_first(chunks)
        return self.draw(chunks, self._forward.hidden(chunks))

    def draw(self, chunks: Seq[Chunk], hidden: Tensor) -> list[Result]:
        """Draw the due tokens from what the forward pass made of the chunks, (N, E)."""
        results, due, last_rows = [], [], []
        row = 0
        for chunk in chunks:
            rows = slice(row, row + chunk.end - chunk.start)
            row = rows.stop
            prompt = self._prompt_logprobs(chunk, hidden[rows]) if chunk.sequence.params.echo else ()
            if chunk.samples and chunk.sequence.params.max_tokens:
                due.append((chunk.sequence, prompt))
                last_rows.append(row - 1)
            else:
                results.append(Result(chunk.sequence, prompt_logprobs=prompt))
        if due:
            results += self._draw(due, self._forward.logits(hidden[last_rows]))
        return results

    def _draw(self, due: list[tuple[Sequence, tuple[TokenLogprob, ...]]], logits: Tensor) -> list[Result]:
        """Draw a token per row of logits (B, V); a row that is not finite gets none."""
        sequences = [s for s, _ in due]
        token_ids = sample(logits, sequences)
        wanted = [s.params.logprobs for s in sequences]
        logprobs: list[TokenLogprob | None] = [None] * len(due)
        if any(n is not None for n in wanted):
            logprobs = list(token_logprobs(logits, [t or 0 for t in token_ids], [n or 0 for n in wanted]))
        return [
            Result(sequence, token_id, logprob, prompt) if token_id is not None else Result(sequence, finite=False)
            for (sequence, prompt), token_id, logprob in zip(due, token_ids, logprobs, strict=True)
        ]

    def _prompt_logprobs(self, chunk: Chunk, hidden: Tensor) -> tuple[TokenLogprob, ...]:
        """Return the log-probabilities of the prompt's tokens that follow the chunk's. hidden: (n, E)."""
        params = chunk.sequence.params
        if params.logprobs is None:
            return ()
        following = chunk.sequence.token_ids[chunk.start + 1 : min(chunk.end + 1, chunk.sequence.prompt_len)]
        first = (TokenLogprob(chunk.sequence.token_ids[0], None),) if chunk.start == 0 else ()
        if not following:
            return first
        logits = self._forward.logits(hidden[: len(following)])
        return first + tuple(token_logprobs(logits, following, [params.logprobs] * len(following)))
