"""Reads several streams as one: each read gives all that came since the last, whoever it came from.

stream 0 ── task ──┐
stream 1 ── task ──┼─> one piece per stream, merged while the reader is busy ──> read()
stream 2 ── task ──┘
"""

import asyncio
from types import TracebackType
from typing import Self

from model_service.engine.sequence import Piece
from model_service.placement.loaded import Stream


class Merged:
    """The streams of one request. Use it inside their `async with`: leaving it stops reading, not them."""

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = streams
        self._pieces: dict[int, Piece] = {}
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._follow(index, stream), name=f"choice-{index}")
            for index, stream in enumerate(self._streams)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def read(self, timeout_s: float) -> dict[int, Piece]:
        """Return what came since the last read, by stream; nothing once the time is up.

        Raises what ended a stream early, after what the others had was read.
        """
        if not self._changed.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return {}
        self._changed.clear()
        pieces, self._pieces = self._pieces, {}
        if not pieces and self._error:
            raise self._error
        if self._error:
            self._changed.set()  # for the next read
        return pieces

    async def _follow(self, index: int, stream: Stream) -> None:
        try:
            async for piece in stream:
                self._pieces[index] = self._pieces[index] + piece if index in self._pieces else piece
                self._changed.set()
        except Exception as error:  # handed to whoever reads
            self._error = self._error or error
            self._changed.set()
