"""Decides which tokens run in the next engine step. Pure Python: no torch here.

Every step runs every admitted sequence, so a sequence joins as soon as a slot is free and leaves the
step it ends; nobody waits for the slowest of a batch. Free slots go to the user who has had the fewest
tokens (fair_queue.py). Prompts are read in chunks of a fixed budget per step, first come first served,
so that a long one does not freeze the streams beside it.

    slots   | 0 a | 1 b | 2 c | 3 . |       always dense: when b ends, c moves to slot 1
"""

from dataclasses import dataclass

from model_service.engine.fair_queue import FairQueue
from model_service.engine.sequence import Sequence, Status


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a sequence, run in one step; `samples` if the last one predicts a new token."""

    sequence: Sequence
    start: int
    end: int

    @property
    def samples(self) -> bool:
        """Whether this chunk reaches the end of what is known, so that its logits give the next token."""
        return self.end == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True)
class Move:
    """Cache content to move: `length` tokens from slot `source` to slot `target`."""

    source: int
    target: int
    length: int


class Scheduler:
    """Waiting and running sequences. `schedule`, run the chunks, then `finish` what ended."""

    def __init__(self, max_num_seqs: int, max_prefill_tokens: int = 256) -> None:
        self.max_num_seqs = max_num_seqs
        self.max_prefill_tokens = max_prefill_tokens
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # running[i].slot == i

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.push(sequence)

    def schedule(self) -> list[Chunk]:
        """Admit what fits and return one chunk per running sequence that has its turn, in slot order."""
        while self.waiting and len(self.running) < self.max_num_seqs:
            sequence = self.waiting.pop()
            sequence.slot, sequence.status = len(self.running), Status.RUNNING
            self.running.append(sequence)
        budget = self.max_prefill_tokens
        chunks = []
        for sequence in sorted(self.running, key=lambda s: s.id):
            missing = len(sequence.token_ids) - sequence.num_computed
            if missing > 1:
                size = min(missing, budget)
                budget -= size
            else:
                size = 1  # a running stream is never held up by prompts
            if size:
                self.waiting.charge(sequence.user, size)
                chunks.append(Chunk(sequence, sequence.num_computed, sequence.num_computed + size))
        return sorted(chunks, key=lambda c: c.sequence.slot)

    def finish(self, sequence: Sequence) -> Move | None:
        """Take a sequence out, wherever it is; return what must move to keep the slots dense."""
        if sequence.status == Status.WAITING:
            self.waiting.remove(sequence)
            sequence.finish()
            return None
        if sequence.status == Status.FINISHED:
            return None
        sequence.finish()
        self.waiting.release(sequence.user)
        last = self.running.pop()
        if last is sequence:
            return None
        move = Move(last.slot, sequence.slot, last.num_computed)
        last.slot = sequence.slot
        self.running[last.slot] = last
        return move

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not self.running and not self.waiting
