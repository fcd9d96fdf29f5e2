"""Decides which tokens run in the next engine step. Pure Python: no torch here.

Every step runs every admitted sequence, so a sequence joins as soon as a slot is free and leaves the
step it ends; nobody waits for the slowest of a batch. Free slots go to whose turn it is (fair_queue.py).
Prompts are read in chunks within a budget per step (prefill_budget.py), so that a long one does not freeze
the streams beside it; what a slot already holds of them is not read again (slots.py).

    slots   | 0 a | 1 b | 2 c | 3 . |       always dense: when b ends, c and b trade places
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from model_service.engine.fair_queue import FairQueue
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.sequence import Sequence, Status
from model_service.engine.slots import Slots, common_prefix

SETTLED = 4  # tokens: younger streams wait for prompts that came with them, so that a burst is in the batch at once
WORTH_WAITING = 16  # tokens that somebody is just reading; fewer are read once more


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
    """Two slots exchange the first `length` tokens of their content; what lies behind is of no use in either."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Copy:
    """The first `length` tokens of slot `source` become those of `target` too."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A step: first the transfers in their order, then all chunks in one pass."""

    started: list[Sequence]  # those that got a slot
    transfers: list[Move | Copy]
    chunks: list[Chunk]  # in slot order

    @property
    def num_streams(self) -> int:
        """Sequences that get their next token."""
        return sum(chunk.end - chunk.start == 1 for chunk in self.chunks)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of prompts that are read beside them."""
        return sum(chunk.end - chunk.start for chunk in self.chunks) - self.num_streams


class Scheduler:
    """Waiting and running sequences. `schedule`, run the plan, then `finish` what ended."""

    def __init__(
        self, max_num_seqs: int, budget: PrefillBudget | None = None, shares: Mapping[str, float] | None = None
    ) -> None:
        self.max_num_seqs = max_num_seqs
        self.budget = budget or PrefillBudget()
        self.waiting = FairQueue(shares)
        self.running: list[Sequence] = []  # running[i].slot == i
        self.reused_tokens = 0  # of prompts, that were not read again
        self._earliest = math.inf  # no deadline is before this
        self._slots = Slots(max_num_seqs)
        self._fresh: dict[int, _Ahead | None] = {}  # admitted, nothing run yet; behind whom

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.push(sequence)
        self._earliest = min(self._earliest, sequence.deadline)

    def expired(self, now: float) -> list[Sequence]:
        """Return those whose time is over, waiting or running; `finish` them."""
        if now < self._earliest:
            return []
        everybody = [*self.waiting, *self.running]
        self._earliest = min((s.deadline for s in everybody if s.deadline > now), default=math.inf)
        return [s for s in everybody if s.deadline <= now]

    def schedule(self, max_streams: int | None = None) -> Plan:
        """Admit what fits; give every stream its token and the prompts what the budget allows.

        Streams whose step is in flight wait for it. max_streams: in a micro-batch; they come from neighbouring slots.
        """
        started, transfers = self._admit()
        transfers += self._begin()
        begun = [s for s in self.running if s.num_missing and s.id not in self._fresh]
        streams = neighbours([s for s in begun if s.num_missing == 1], max_streams)
        reading = sorted((s for s in begun if s.num_missing > 1), key=lambda s: s.id)
        settled = sum(s.num_generated >= SETTLED for s in streams)
        budget = self.budget.tokens(num_streams=settled)
        sizes = dict.fromkeys(streams, 1)  # a running stream is never held up by prompts
        sizes |= dict(zip(reading, divide([s.num_missing for s in reading], budget), strict=True))
        chunks = []
        for sequence in begun:
            if size := sizes.get(sequence):
                self.waiting.charge(sequence.user, size)
                chunks.append(Chunk(sequence, sequence.num_computed, sequence.num_computed + size))
        return Plan(started, transfers, chunks)

    @property
    def reads_prompts(self) -> bool:
        """Whether some of a prompt is still to be read of a sequence that has a slot, or can have one."""
        can_start = bool(self.waiting) and len(self.running) < self.max_num_seqs
        return can_start or any(s.num_missing > 1 for s in self.running)

    @property
    def num_streams(self) -> int:
        """Sequences that have been given their whole prompt."""
        return sum(s.num_missing <= 1 for s in self.running)

    def finish(self, sequence: Sequence) -> Move | None:
        """Take a sequence out, wherever it is; return what must trade places to keep the slots dense."""
        if sequence.status == Status.WAITING:
            self.waiting.remove(sequence)
            sequence.finish()
            return None
        if sequence.status == Status.FINISHED:
            return None
        sequence.finish()
        self.waiting.release(sequence.user)
        self._fresh.pop(sequence.id, None)
        self._slots.leave(sequence)
        last = self.running.pop()
        if last is sequence:
            return None
        last.slot, sequence.slot = sequence.slot, last.slot
        self.running[last.slot] = last
        return self._exchange(sequence.slot, last.slot)

    def forget(self, slot: int) -> None:
        """Never reuse what is in a slot."""
        self._slots.forget(slot)

    def drop_running(self) -> list[Sequence]:
        """Take out all that run and trust no slot's content any more; returns them."""
        dropped = self.running[::-1]  # from the last slot on, so that nothing has to move
        for sequence in dropped:
            self.finish(sequence)
        self._slots = Slots(self.max_num_seqs)
        return dropped

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not self.running and not self.waiting

    def _admit(self) -> tuple[list[Sequence], list[Move | Copy]]:
        started: list[Sequence] = []
        moves: list[Move | Copy] = []
        while self.waiting and len(self.running) < self.max_num_seqs:
            sequence = self.waiting.pop()
            slot = len(self.running)
            chosen, known = self._slots.choose(sequence, slot)
            if chosen != slot and (move := self._exchange(chosen, slot)):
                moves.append(move)
            sequence.slot, sequence.status = slot, Status.RUNNING
            self._fresh[sequence.id] = self._ahead(sequence, known + WORTH_WAITING)
            self.running.append(sequence)
            started.append(sequence)
        return started, moves

    def _begin(self) -> list[Move | Copy]:
        """Let the fresh sequences take over what is known of their prompts, unless more of it is being read."""
        copies: list[Move | Copy] = []
        for sequence in [s for s in self.running if s.id in self._fresh]:
            ahead = self._fresh[sequence.id]
            if ahead is not None and ahead.still_reads:
                continue
            del self._fresh[sequence.id]
            source, length = self._slots.longest_prefix(sequence)
            if length and source != sequence.slot:
                copies.append(Copy(source, sequence.slot, length))
            sequence.num_computed = length
            self.reused_tokens += length
            self._slots.begin(sequence)
        return copies

    def _ahead(self, sequence: Sequence, least: int) -> "_Ahead | None":
        """Find who is reading, or about to read, `least` or more tokens of this prompt: who has most of them."""
        best, wanted = None, sequence.token_ids
        for other in self.running:
            limit = min(other.prompt_len, sequence.num_skippable)
            if (
                other.num_computed >= other.prompt_len
                or limit < least
                or other.token_ids[least - 1] != wanted[least - 1]
            ):
                continue  # most end here
            shared = common_prefix(other.token_ids, wanted, limit)
            if shared >= least and other.adapter is sequence.adapter:
                best, least = _Ahead(other, shared), shared + 1
        return best

    def _exchange(self, source: int, target: int) -> Move | None:
        length = self._slots.exchange(source, target)
        return Move(source, target, length) if length else None


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Somebody who was admitted earlier, so that nobody waits in a circle, and shares this much of a prompt."""

    sequence: Sequence
    shared: int

    @property
    def still_reads(self) -> bool:
        """Whether more is to come from there."""
        return self.sequence.status == Status.RUNNING and self.sequence.num_computed < self.shared


def neighbours(streams: list[Sequence], size: int | None) -> list[Sequence]:
    """Return those of the fullest window of so many slots, or all: attention reads neighbouring slots without a copy.

    So micro-batches become windows of slots, however their sequences came.
    """
    if size is None or not streams:
        return streams
    windows = Counter(sequence.slot // size for sequence in streams)
    fullest = max(windows, key=lambda window: (windows[window], -window))
    return [sequence for sequence in streams if sequence.slot // size == fullest]


def divide(missing: list[int], budget: int) -> list[int]:
    """Divide a budget of tokens among prompts, the oldest first in the list, by how much each still misses.

    The oldest gets half at least, so that it comes to an end; the rest goes to the shortest first, so that a short
    one does not wait for a long one.
    """
    sizes = [0] * len(missing)
    half = (budget + 1) // 2
    for turn, i in enumerate([*range(len(missing))[:1], *sorted(range(len(missing)), key=missing.__getitem__)]):
        size = min(missing[i] - sizes[i], half if turn == 0 else budget)
        sizes[i] += size
        budget -= size
    return sizes
