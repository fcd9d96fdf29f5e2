"""Reads several streams as one, at a pace: each read gives all that came since the last, whoever it came from.

    stream 0 ── news ──┐
    stream 1 ── news ──┼─> wake the reader: at once, or when `interval_s` has passed since its last read ──> read()
    stream 2 ── news ──┘

There is no task per stream, and pieces that nobody read yet stay in their streams, which merge them. The end of a
stream is never held back.
"""

import asyncio
from collections.abc import Sequence as Seq
from functools import partial
from types import TracebackType
from typing import Self

from model_service.engine.sequence import Piece
from model_service.placement.loaded import Stream


class Merged:
    """The streams of one request, for one reader. Leaving the block stops listening; it does not end the streams.

    interval_s: least time between two reads that find something; it may be changed between reads.
    """

    def __init__(self, streams: Seq[Stream], interval_s: float) -> None:
        self.interval_s = interval_s
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._news: set[int] = set()  # the streams that have something
        self._urgent = False  # one of them has ended
        self._error: Exception | None = None
        self._due = 0.0  # on the loop's clock; before it only an end wakes the reader
        self._reader: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        for index, stream in enumerate(self._streams):
            stream.listen(partial(self._hear, index))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.listen(_ignore)

    async def read(self, timeout_s: float) -> dict[int, Piece]:
        """Return what came since the last read, by stream; nothing once the time is up.

        Raises what ended a stream early, after what the streams had before was read.
        """
        due = self._news and self._loop.time() >= self._due
        if not (due or self._urgent or self._error):
            await self._wait(timeout_s)
        if not (self._news or self._error):
            return {}
        self._due = self._loop.time() + self.interval_s
        news, self._news, self._urgent = sorted(self._news), set(), False
        pieces = {index: piece for index in news if (piece := self._streams[index].take())}
        self._error = self._error or next((e for index in news if (e := self._streams[index].error)), None)
        if self._error and not pieces:
            raise self._error
        return pieces

    async def _wait(self, timeout_s: float) -> None:
        """Return when there is news that is due, when a stream has ended, or when the time is up."""
        self._reader = self._loop.create_future()
        limit = self._loop.time() + timeout_s
        self._alarm = self._loop.call_at(min(limit, self._due) if self._news else limit, self._wake)
        try:
            await self._reader
        finally:
            self._reader = None
            self._alarm.cancel()

    def _hear(self, index: int, last: bool) -> None:
        known = bool(self._news)
        self._news.add(index)
        self._urgent = self._urgent or last
        if self._reader is None:  # it reads as soon as it has written
            return
        if last or self._loop.time() >= self._due:
            self._wake()
        elif not known and self._alarm is not None:
            self._alarm.cancel()
            self._alarm = self._loop.call_at(self._due, self._wake)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _ignore(last: bool) -> None:
    pass
