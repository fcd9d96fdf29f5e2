"""Draws several jokes at once and tells the one that a server's votes speak for, as if it were the only one.

    candidates ─ read to their ends, side by side ─ taste chooses ─ its whole text in one update

The place in the queue and the loading of the model are those of the first. A candidate that breaks is left out.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from bot.errors import BotError
from bot.service_client import CompletionStream, Update
from bot.taste import Taste

log = logging.getLogger(__name__)


class BestOf:
    """Some running completions that are read as one; its place in `async with` is `among`'s."""

    def __init__(self, first: CompletionStream, others: Sequence[CompletionStream], taste: Taste) -> None:
        self._first, self._others, self._taste = first, others, taste
        self._texts = [""] * (1 + len(others))
        self._told = False
        self._reading = [
            asyncio.create_task(self._read(place, stream), name="best-of-candidate")
            for place, stream in enumerate(others, start=1)
        ]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Return how the first one waits, then the best text as a whole; safe to cancel."""
        if self._told:
            raise StopAsyncIteration
        async for update in self._first:
            self._texts[0] += update.text
            if not update.text:
                return update
        if self._reading:
            await asyncio.wait(self._reading)
        self._told = True
        chosen = self._taste.best(self._texts)
        log.info("told candidate %d of %d", chosen + 1, len(self._texts))
        return Update(self._texts[chosen])

    def cancel(self) -> None:
        """End all of them early, from anywhere."""
        for stream in (self._first, *self._others):
            stream.cancel()

    async def close(self) -> None:
        """Stop reading."""
        for task in self._reading:
            task.cancel()
        if self._reading:
            await asyncio.wait(self._reading)

    async def _read(self, place: int, stream: CompletionStream) -> None:
        try:
            async for update in stream:
                self._texts[place] += update.text
        except BotError as error:
            log.warning("a candidate is left out: %s", type(error).__name__)
            self._texts[place] = ""


@asynccontextmanager
async def among(
    first: CompletionStream, more: Callable[[], CompletionStream], number: int, taste: Taste
) -> AsyncIterator[BestOf]:
    """Draw `number` candidates beside one that runs already; leaving the block cancels them."""
    async with AsyncExitStack() as stack:
        others = []
        for _ in range(number):
            try:
                others.append(await stack.enter_async_context(more()))
            except BotError as error:
                log.warning("one candidate less: %s", type(error).__name__)
        best = BestOf(first, others, taste)
        try:
            yield best
        finally:
            await best.close()
