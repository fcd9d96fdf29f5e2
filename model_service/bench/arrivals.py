"""When the tokens of a stream reach its reader: what growth and gaps are read from. Runs in a child process."""

import asyncio
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from model_service.engine.stream import Stream

Arrival = tuple[int, float]  # tokens so far, and when


class Watched:
    """A stream that is read as fast as it comes, on a task of its own; leaving the block cancels it.

    `times` holds one entry for each time that tokens came.
    """

    def __init__(self, stream: "Stream") -> None:
        self.times: list[Arrival] = []
        self._stream = stream
        self._came = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name="watched stream")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stream.close()
        self._reading.cancel()
        await asyncio.wait([self._reading])

    @property
    def count(self) -> int:
        """Tokens so far."""
        return self.times[-1][0] if self.times else 0

    async def until(self, count: int, limit_s: float = 60.0) -> None:
        """Wait until so many tokens have come. Raises TimeoutError, or what ended the stream."""
        async with asyncio.timeout(limit_s), self._came:
            await self._came.wait_for(lambda: self.count >= count or self._reading.done())
        if self._reading.done():
            self._reading.result()

    async def _read(self) -> None:
        async for piece in self._stream:
            if piece.token_ids:
                self.times.append((self.count + len(piece.token_ids), time.perf_counter()))
                async with self._came:
                    self._came.notify_all()


async def drain(stream: "Stream") -> None:
    """Read a stream to its end."""
    async with stream:
        async for _ in stream:
            pass


def step_s(times: list[Arrival], at: int, window: int) -> float:
    """Return the seconds per token over the last `window` tokens before the `at`-th."""
    end = next(arrival for arrival in times if arrival[0] >= at)
    begin = [arrival for arrival in times if arrival[0] <= at - window][-1]
    return (end[1] - begin[1]) / (end[0] - begin[0])


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]
