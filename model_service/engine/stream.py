"""The reader's end of one sequence: a single slot that merges what comes while the reader is busy.

It lives on the event loop; the engine's thread never touches it. A reader either waits (`async for`) or
is told that there is something (`listen`) and takes it when it likes (`take`), which needs no task.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from model_service.engine.sequence import FinishReason, Piece, TokenLogprob


class Stream:
    """One answer. Leaving the `async with` block cancels it and frees its slot by the next step."""

    def __init__(
        self, sequence_id: int, place: Callable[[int], tuple[int, float] | None], leave: Callable[[int], None]
    ) -> None:
        self.error: Exception | None = None
        self._id = sequence_id
        self._place, self._leave = place, leave
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish_reason: FinishReason | None = None
        self._news: Callable[[bool], None] | None = None
        self._filled = False
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

    def listen(self, news: Callable[[bool], None]) -> None:
        """Have `news(last)` called whenever something came; `last` if nothing follows. There is one listener."""
        self._news = news
        if self._filled or self.error:
            news(self._over)

    def take(self) -> Piece | None:
        """Return all there is since the last call, if anything; what ended it early is in `error`, after its text."""
        if not self._filled:
            return None
        piece = Piece("".join(self._texts), tuple(self._token_ids), tuple(self._logprobs), self._finish_reason)
        self._texts, self._token_ids, self._logprobs, self._filled = [], [], [], False
        return piece

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        """Return all there is since the last call. Raises what ended the sequence, once its text was read."""
        if not self._ended and not self._filled and not self.error:
            changed = asyncio.Event()
            self.listen(lambda last: changed.set())
            await changed.wait()
        if self._ended:
            raise StopAsyncIteration
        piece = self.take()
        self._ended = piece is None or piece.finish_reason is not None
        if piece is None:
            assert self.error
            raise self.error
        return piece

    def put(self, item: Piece | Exception) -> None:
        """Add what the engine made, or the error that ends the stream."""
        if isinstance(item, Exception):
            self.error = item
        else:
            self._texts.append(item.text)
            self._token_ids += item.token_ids
            self._logprobs += item.logprobs
            self._finish_reason = item.finish_reason
            self._filled = True
        if self._news is not None:
            self._news(self._over)

    @property
    def _over(self) -> bool:
        return self.error is not None or self._finish_reason is not None
