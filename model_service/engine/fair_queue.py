"""Whose turn it is: among those who wait, whoever has been given the fewest tokens for their share. No torch here.

    user = "guild:user"          guild A  ── ann, bob          first between guilds, then between a guild's users;
                                 guild B  ── eve               a user without a colon is a guild of one

Start-time fair queueing (Goyal, Vin and Cheng, 1996), with tokens run as the measure: somebody who asks for a
hundred answers at once waits for their own, and somebody new is next, but nobody saves up turns by being away.
Who runs is never interrupted: a newcomer to a full batch waits until one of it ends.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping

from model_service.engine.sequence import Sequence


class _Turns:
    """Accounts of the tokens that each name was given, over its share. Who joins starts where the lowest one is."""

    def __init__(self) -> None:
        self._given: dict[str, float] = {}
        self._present: Counter[str] = Counter()  # sequences waiting or running
        self._floor = 0.0  # the lowest account of those present; it only rises

    def __len__(self) -> int:
        return len(self._given)

    def join(self, name: str) -> None:
        """A sequence of this name has come."""
        if name not in self._present:
            self._raise_floor()
            self._given[name] = max(self._given.get(name, 0.0), self._floor)
        self._present[name] += 1

    def leave(self, name: str) -> bool:
        """One of them is gone; true if it was the last of all."""
        self._present[name] -= 1
        if not self._present[name]:
            del self._present[name]
            self._raise_floor()
            for known in [n for n, given in self._given.items() if n not in self._present and given <= self._floor]:
                del self._given[known]  # a newcomer starts no lower
        return not self._present

    def next(self, names: Iterable[str]) -> str:
        """Return whose turn it is; among equals who has the fewest sequences here, and of these the first."""
        return min(names, key=lambda name: (self._given[name], self._present[name]))

    def charge(self, name: str, cost: float) -> None:
        """Count what a sequence of this name was given."""
        self._given[name] += cost

    def _raise_floor(self) -> None:
        self._floor = max(self._floor, min((self._given[name] for name in self._present), default=self._floor))


class FairQueue:
    """Waiting sequences, first come first served within a user. `charge` what each user's sequences run.

    shares: of guilds ("guild") and of users in theirs ("guild:user") that get more or less than others; all else is 1.
    """

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self._shares = shares or {}
        self._waiting: dict[str, dict[str, deque[Sequence]]] = {}  # guild -> user -> sequences
        self._guilds = _Turns()
        self._users: dict[str, _Turns] = {}  # of guilds that wait or run

    def __len__(self) -> int:
        return sum(len(waiting) for guild in self._waiting.values() for waiting in guild.values())

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for guild in self._waiting.values() for waiting in guild.values() for sequence in waiting)

    @property
    def num_accounts(self) -> int:
        """Guilds and users that are remembered."""
        return len(self._guilds) + sum(map(len, self._users.values()))

    def push(self, sequence: Sequence) -> None:
        """Add a sequence behind its user's others."""
        guild, user = split(sequence.user)
        self._guilds.join(guild)
        self._users.setdefault(guild, _Turns()).join(user)
        self._waiting.setdefault(guild, {}).setdefault(user, deque()).append(sequence)

    def pop(self) -> Sequence:
        """Take the next sequence."""
        guild = self._guilds.next(self._waiting)
        user = self._users[guild].next(self._waiting[guild])
        sequence = self._waiting[guild][user][0]
        self._take_out(sequence)
        # what it will run at least is charged at once, so that one user does not take all free slots of a step
        self.charge(sequence.user, 1)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that will not run."""
        self._take_out(sequence)
        self.release(sequence.user)

    def charge(self, user: str, num_tokens: int) -> None:
        """Count tokens that a user's sequence has run."""
        guild, name = split(user)
        self._guilds.charge(guild, num_tokens / self._shares.get(guild, 1.0))
        self._users[guild].charge(name, num_tokens / self._shares.get(user, 1.0))

    def release(self, user: str) -> None:
        """A sequence of this user has ended."""
        guild, name = split(user)
        if self._users[guild].leave(name):
            del self._users[guild]
        if self._guilds.leave(guild):
            self._guilds = _Turns()  # all is quiet: nobody is remembered

    def _take_out(self, sequence: Sequence) -> None:
        guild, user = split(sequence.user)
        users = self._waiting[guild]
        users[user].remove(sequence)
        if not users[user]:
            del users[user]
        if not users:
            del self._waiting[guild]


def split(user: str) -> tuple[str, str]:
    """Return the guild and the rest of a `user`: ("7", "8") of "7:8", and ("7", "") of "7"."""
    guild, _, rest = user.partition(":")
    return guild, rest
