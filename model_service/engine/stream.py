"""The reader's end of one sequence: a single slot that merges what comes while the reader is busy.

It lives on the event loop; the engine's thread never touches it.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from model_service.engine.sequence import Piece


class Stream:
    """One answer. Leaving the `async with` block cancels it and frees its slot by the next step."""

    def __init__(
        self, sequence_id: int, place: Callable[[int], tuple[int, float] | None], leave: Callable[[int], None]
    ) -> None:
        self._id = sequence_id
        self._place, self._leave = place, leave
        self._piece: Piece | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel, unless it has ended; what was not read is dropped."""
        self._ended = True
        self._leave(self._id)

    @property
    def position(self) -> int | None:
        """Place in the queue, 1 is next; None once it runs."""
        place = self._place(self._id)
        return place[0] if place else None

    @property
    def eta_s(self) -> float | None:
        """Seconds until it runs, guessed from the last answers; None once it runs."""
        place = self._place(self._id)
        return place[1] if place else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        """Return all there is since the last call. Raises what ended the sequence, once its text was read."""
        while not self._ended:
            if self._piece is not None:
                piece, self._piece = self._piece, None
                self._ended = piece.finish_reason is not None
                return piece
            if self._error is not None:
                self._ended = True
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration

    def put(self, item: Piece | Exception) -> None:
        """Add what the engine made, or the error that ends the stream."""
        if isinstance(item, Exception):
            self._error = item
        else:
            self._piece = item if self._piece is None else self._piece + item
        self._changed.set()
