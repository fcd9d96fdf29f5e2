"""What each slot's keys and values were computed from, so that a prompt that begins alike need not be read again.

    slot 0   a  JOKE: Why did the          runs: what it has computed so far
    slot 1   b  JOKE: My cat is            runs
    slot 2   .  JOKE: Two men walk         freed: its content stays until somebody needs the slot
    slot 3   .                             never used, or broken and forgotten

Keys and values depend on the tokens before them and on the adapter, and on nothing else. Pure Python: no torch here.
"""

import itertools
import operator
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from model_service.engine.sequence import Sequence

MIN_REUSED = 4  # tokens; fewer are read again


class _Content:
    """Tokens whose keys and values are in a slot: a running sequence's, or what one left there."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence: Sequence | None = sequence
        self.token_ids = sequence.token_ids
        self._adapter = None if sequence.adapter is None else weakref.ref(sequence.adapter)  # it may be gone one day

    @property
    def length(self) -> int:
        return len(self.token_ids) if self._sequence is None else self._sequence.num_computed

    def is_of(self, adapter: object) -> bool:
        """Whether it was computed with this adapter; with None, without any, and not with one that is gone."""
        return adapter is None if self._adapter is None else adapter is not None and adapter is self._adapter()

    def leave(self) -> None:
        """Keep what the sequence has computed, and let go of it."""
        if self._sequence is not None:
            self.token_ids, self._sequence = self.token_ids[: self.length], None


@dataclass(slots=True)
class _Slot:
    content: _Content | None = None
    freed: int = 0  # when, in slots freed so far

    @property
    def length(self) -> int:
        return self.content.length if self.content else 0


class Slots:
    """The contents of all slots, in the order of the cache's. It must hear of everything that changes them."""

    def __init__(self, num_slots: int) -> None:
        self._slots = [_Slot() for _ in range(num_slots)]
        self._clock = itertools.count(1)

    def begin(self, sequence: Sequence) -> None:
        """From here on the sequence writes into its slot; its first `num_computed` tokens are there already."""
        self._slots[sequence.slot].content = _Content(sequence)

    def leave(self, sequence: Sequence) -> None:
        """The sequence has ended; what it computed stays. One that never began has changed nothing."""
        slot = self._slots[sequence.slot]
        slot.freed = next(self._clock)
        if slot.content:
            slot.content.leave()

    def forget(self, slot: int) -> None:
        """What is in the slot cannot be used."""
        self._slots[slot].content = None

    def exchange(self, a: int, b: int) -> int:
        """Let two slots trade places; return how many tokens of them matter."""
        self._slots[a], self._slots[b] = self._slots[b], self._slots[a]
        return max(self._slots[a].length, self._slots[b].length)

    def choose(self, sequence: Sequence, first_free: int) -> tuple[int, int]:
        """Return which of the free slots, `first_free` and above, the sequence takes, and how much any slot shares.

        It takes one with its prefix and little else, or an empty one, or the one that was freed longest ago.
        """
        free = range(first_free, len(self._slots))
        source, shared = self._longest(sequence, reversed(range(len(self._slots))))  # among equals a free one
        if source in free and 2 * shared >= self._slots[source].length:
            return source, shared
        return min(free, key=lambda i: (self._slots[i].length > 0, self._slots[i].freed)), shared

    def longest_prefix(self, sequence: Sequence) -> tuple[int, int]:
        """Return the slot that shares most with the sequence's prompt, and how much; among equals its own slot."""
        return self._longest(sequence, (sequence.slot, *range(len(self._slots))))

    def _longest(self, sequence: Sequence, order: Iterable[int]) -> tuple[int, int]:
        best, longest, limit, wanted = -1, MIN_REUSED - 1, sequence.num_skippable, sequence.token_ids
        for i in order:
            if longest >= limit:
                break
            content = self._slots[i].content
            if content is None or content.length <= longest or content.token_ids[longest] != wanted[longest]:
                continue  # it cannot be a longer one; most end here
            shared = common_prefix(content.token_ids, wanted, min(content.length, limit))
            if shared > longest and content.is_of(sequence.adapter):
                best, longest = i, shared
        return (best, longest) if best >= 0 else (sequence.slot, 0)


def common_prefix(a: list[int], b: list[int], limit: int) -> int:
    """Return how many of the first `limit` tokens are the same in both; both have that many."""
    differs = map(operator.ne, itertools.islice(a, limit), b)
    return next(itertools.compress(itertools.count(), differs), limit)
