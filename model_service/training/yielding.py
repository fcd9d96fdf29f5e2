"""Lets a training run step aside while people wait for answers. No torch here.

    service: Sign.show(busy) ── one byte of a file that both have mapped ──> run: Courtesy, between two steps

While the service is at work, a run rests `rest` times as long as its last step took: it then has 1 / (1 + rest) of the
time, and goes on at once when nobody is being answered. It is never held up for ever, however busy the service is.
"""

import asyncio
import mmap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

LOOK_EVERY_S = 0.05
MOST_REST_S = 60.0  # after a step that took long for reasons of its own, such as an evaluation
NAME = "busy"


class Sign:
    """The service's side: says whether it is at work. The file is made anew, and says no."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        path.write_bytes(b"\0")
        with path.open("r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 1)

    def show(self, busy: bool) -> None:
        """Say it; costs no system call."""
        self._byte[0] = int(busy)

    def close(self) -> None:
        """Say no, and let go of the file."""
        self.show(False)
        self._byte.close()


@asynccontextmanager
async def showing(folder: Path, busy: Callable[[], bool]) -> AsyncIterator[None]:
    """Keep the sign of a run's folder up to date as long as the block runs."""
    sign = await asyncio.to_thread(Sign, folder)

    async def keep() -> None:
        while True:
            sign.show(busy())
            await asyncio.sleep(LOOK_EVERY_S)

    task = asyncio.create_task(keep(), name="training-sign")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        sign.close()


class Courtesy:
    """The run's side: called between steps, like the `check` that it wraps, which may raise."""

    def __init__(self, folder: Path, rest: float, check: Callable[[], None]) -> None:
        self._rest, self._check = rest, check
        self._last: float | None = None
        self._byte: mmap.mmap | None = None
        if rest and (folder / NAME).exists():
            with (folder / NAME).open("rb") as file:
                self._byte = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)

    def __call__(self) -> None:
        """Rest if it is time to."""
        self._check()
        now = time.monotonic()
        if self._last is not None:
            until = now + min(self._rest * (now - self._last), MOST_REST_S)
            while self._byte is not None and self._byte[0] and time.monotonic() < until:
                time.sleep(0.01)
                self._check()
        self._last = time.monotonic()
