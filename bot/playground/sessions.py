"""Gateway sessions: who is connected, what they asked to hear, and every event they may still need.

An event gets a number per session and stays in the session's log, so a connection that breaks resumes where
it was. Publishing never waits: a connection reads the log at its own speed.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bot.playground.world import User

Json = dict[str, Any]

GUILDS = 1 << 0
GUILD_MEMBERS = 1 << 1
GUILD_PRESENCES = 1 << 8
GUILD_MESSAGES = 1 << 9
GUILD_REACTIONS = 1 << 10
GUILD_TYPING = 1 << 11
DIRECT_MESSAGES = 1 << 12
DIRECT_REACTIONS = 1 << 13
DIRECT_TYPING = 1 << 14
MESSAGE_CONTENT = 1 << 15
ALL_INTENTS = (1 << 26) - 1

MAX_LOG = 4_000  # events kept for a resume
RESUME_WITHIN_S = 120.0


@dataclass(slots=True, eq=False)
class Session:
    """One login. `log` holds (number, event); `wakeup` is set when there is something new or the end is near."""

    id: str
    user: User
    intents: int
    sequence: int = 0
    log: deque[tuple[int, Json]] = field(default_factory=lambda: deque(maxlen=MAX_LOG))
    connected: bool = True
    left_at: float = 0.0
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, event: str, data: Json) -> None:
        """Append one dispatch event."""
        self.sequence += 1
        self.log.append((self.sequence, {"op": 0, "t": event, "s": self.sequence, "d": data}))
        self.wakeup.set()

    def since(self, sequence: int) -> list[tuple[int, Json]]:
        """Events after this number, oldest first."""
        return [entry for entry in self.log if entry[0] > sequence]

    def can_resume(self, sequence: int) -> bool:
        """Whether every event after this number is still here."""
        oldest = self.log[0][0] if self.log else 1
        return oldest - 1 <= sequence <= self.sequence and not self.is_over()

    def is_over(self) -> bool:
        """Gone for too long to come back."""
        return not self.connected and time.monotonic() - self.left_at > RESUME_WITHIN_S


class Sessions:
    """Every session, and the one way to tell them something."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def open(self, user: User, intents: int) -> Session:
        """A new session for this account."""
        for session in [s for s in self._sessions.values() if s.is_over()]:
            del self._sessions[session.id]
        session = Session(secrets.token_hex(16), user, intents)
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str) -> Session | None:
        """The session with this id, connected or not."""
        return self._sessions.get(session_id)

    def leave(self, session: Session, *, for_good: bool) -> None:
        """Its connection is gone; unless for good, it may resume."""
        session.connected = False
        session.left_at = time.monotonic()
        if for_good:
            self._sessions.pop(session.id, None)

    def is_online(self, user: User) -> bool:
        """Whether this account has a live connection."""
        return any(s.connected for s in self._sessions.values() if s.user is user)

    def publish(
        self,
        event: str,
        data: Json | Callable[[Session], Json | None],
        *,
        to: Iterable[User],
        intent: int = 0,
    ) -> None:
        """Tell the sessions of these accounts; `data` may depend on the session (None: not this one).

        People hear everything. A bot hears what it asked for: `intent` is the bit it needs, 0 for none.
        """
        accounts = set(to)
        for session in list(self._sessions.values()):
            if session.user not in accounts:
                continue
            if session.user.bot and intent and not session.intents & intent:
                continue
            payload = data(session) if callable(data) else data
            if payload is not None:
                session.push(event, payload)
