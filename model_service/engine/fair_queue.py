"""Whose turn it is: among the people who wait, whoever has been given the fewest tokens. Pure Python: no torch here.

Start-time fair queueing (Goyal, Vin and Cheng, 1996), with tokens run as the measure: somebody who asks for a
hundred answers at once waits for their own, and somebody new is next, but nobody saves up turns by being away.
"""

from collections import Counter, deque
from collections.abc import Iterator

from model_service.engine.sequence import Sequence


class FairQueue:
    """Waiting sequences, first come first served within a user. `charge` what each user's sequences run."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Sequence]] = {}
        self._tokens: Counter[str] = Counter()  # of users who wait or run
        self._running: Counter[str] = Counter()  # sequences taken and not yet released
        self._floor = 0  # what the last one taken had: newcomers start there

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for waiting in self._waiting.values() for sequence in waiting)

    def push(self, sequence: Sequence) -> None:
        """Add a sequence behind its user's others."""
        user = sequence.user
        if user not in self._waiting and not self._running[user]:
            self._tokens[user] = max(self._tokens[user], self._floor)
        self._waiting.setdefault(user, deque()).append(sequence)

    def pop(self) -> Sequence:
        """Take the next sequence; among equals the one that came first."""
        user = min(self._waiting, key=lambda u: (self._tokens[u], self._waiting[u][0].id))
        self._floor = max(self._floor, self._tokens[user])
        sequence = self._waiting[user].popleft()
        self._running[user] += 1
        # what it will run at least is charged at once, so that one user does not take all free slots of a step
        self.charge(user, 1)
        self._drop_if_empty(user)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that will not run. Raises ValueError if it does not wait."""
        self._waiting[sequence.user].remove(sequence)
        self._drop_if_empty(sequence.user)

    def charge(self, user: str, num_tokens: int) -> None:
        """Count tokens that a user's sequence has run."""
        self._tokens[user] += num_tokens

    def release(self, user: str) -> None:
        """A sequence of this user has ended."""
        self._running[user] -= 1
        if not self._running[user]:
            del self._running[user]
            self._forget_if_gone(user)

    def _drop_if_empty(self, user: str) -> None:
        if not self._waiting[user]:
            del self._waiting[user]
            self._forget_if_gone(user)

    def _forget_if_gone(self, user: str) -> None:
        """Keep no account of people who are at or below where a newcomer starts, nor of anybody once all is quiet."""
        if not self._waiting and not self._running:
            self._tokens.clear()
            self._floor = 0
        elif user not in self._waiting and user not in self._running and self._tokens[user] <= self._floor:
            del self._tokens[user]
