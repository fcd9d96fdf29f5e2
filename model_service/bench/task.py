"""What every engine is given to do, and what the bench needs of an engine."""

import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Task:
    """`batch` prompts of `prompt_len` random tokens, `new_tokens` more for each, greedily, whatever they are.

    A seed gives the same prompts to every engine; another seed shares no prefix with them, so that an engine
    that keeps prompts gains nothing by it.
    """

    batch: int
    prompt_len: int
    new_tokens: int
    seed: int = 0

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """Return `batch` lists of token ids; never the last one, which ends a text in GPT-2's vocabulary."""
        rng = random.Random(f"{self.seed}-{self.batch}-{self.prompt_len}")
        return [[rng.randrange(vocab_size - 1) for _ in range(self.prompt_len)] for _ in range(self.batch)]


class Contestant(Protocol):
    """One engine with one number format, loaded, in a process of its own."""

    @property
    def weights(self) -> str:
        """The number format, as the engine calls it."""
        ...

    def prepare(self, task: Task) -> None:
        """Get ready for tasks of this size, untimed: contexts, caches, the faster one of its own options."""
        ...

    def run(self, task: Task) -> Seq[Seq[int]]:
        """Do a task; returns the new tokens of each prompt. This is what is timed."""
        ...
