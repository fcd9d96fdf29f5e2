"""Who reads what the engine makes: the streams of its sequences, and their places in the queue. Event loop only."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from model_service.engine.fair_queue import split
from model_service.engine.sequence import Piece
from model_service.engine.stream import Stream


@dataclass(slots=True)
class Events:
    """What one step tells the event loop."""

    started: list[int]
    pieces: list[tuple[int, Piece | Exception]]


class Readers:
    """Open streams by sequence id. `cancel` is called with the id of one whose reader leaves before its end."""

    def __init__(self, max_num_seqs: int, cancel: Callable[[int], None]) -> None:
        self._max_num_seqs = max_num_seqs
        self._cancel = cancel
        self._streams: dict[int, Stream] = {}
        self._waiting: dict[int, str] = {}  # whose each is, in order of arrival
        self._arrived: dict[int, float] = {}
        self._mean_s = 1.0  # of an answer, moving average

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    def add(self, sequence_id: int, user: str) -> Stream:
        """Open a stream; its sequence waits until an event says that it has started."""
        stream = Stream(sequence_id, self._place, self._leave)
        self._streams[sequence_id] = stream
        self._waiting[sequence_id] = user
        self._arrived[sequence_id] = time.monotonic()
        return stream

    def eta_s(self, position: int) -> float:
        """Guess how long a place in the queue waits, from what the last answers took."""
        return round(self._mean_s * position / self._max_num_seqs, 1)

    def deliver(self, events: Events) -> None:
        """Hand a step's pieces to their streams."""
        for sequence_id in events.started:
            self._waiting.pop(sequence_id, None)
        for sequence_id, item in events.pieces:
            stream = self._streams.get(sequence_id)
            if stream is None:
                continue
            stream.put(item)
            if isinstance(item, Exception) or item.finish_reason:
                self._mean_s += 0.1 * (time.monotonic() - self._arrived[sequence_id] - self._mean_s)
                self._forget(sequence_id)

    def end_all(self, error: Exception) -> None:
        """End every stream with this error."""
        for sequence_id, stream in list(self._streams.items()):
            stream.put(error)
            self._forget(sequence_id)

    def _place(self, sequence_id: int) -> tuple[int, float] | None:
        """Guess the place in the queue: the nth of a user's waits for n of each other user's; so do guilds."""
        user = self._waiting.get(sequence_id)
        if user is None:
            return None
        guild, _ = split(user)
        own = [i for i, u in self._waiting.items() if u == user].index(sequence_id) + 1
        users = Counter(u for u in self._waiting.values() if u != user and split(u)[0] == guild)
        place = own + sum(min(count, own) for count in users.values())
        guilds = Counter(g for g, _ in map(split, self._waiting.values()) if g != guild)
        position = place + sum(min(count, place) for count in guilds.values())
        return position, self.eta_s(position)

    def _leave(self, sequence_id: int) -> None:
        if self._forget(sequence_id):
            self._cancel(sequence_id)

    def _forget(self, sequence_id: int) -> bool:
        """Drop a stream; true if it was still known."""
        self._waiting.pop(sequence_id, None)
        self._arrived.pop(sequence_id, None)
        return self._streams.pop(sequence_id, None) is not None
