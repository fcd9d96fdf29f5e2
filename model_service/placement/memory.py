"""Which models lie in memory, and how they leave it: drained, closed, and their bytes given back. Event loop only.

A model that was replaced or unloaded stays here until the last request that uses it has ended; so the planner
counts it until then.
"""

import asyncio
import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Iterable

from model_service.placement.room import Placement
from model_service.placement.slot import Slot

log = logging.getLogger(__name__)


class Memory:
    """The loaded models. news: called when one of them is not used any more, or is gone."""

    def __init__(self, drain_limit_s: float, news: Callable[[], None]) -> None:
        self.quiet = asyncio.Lock()  # held while a model is loaded: CUDA cannot free what it likes during a capture
        self._drain_limit_s = drain_limit_s
        self._news = news
        self._slots: list[Slot] = []  # models, without the adapters on them
        self._draining: dict[asyncio.Task[None], Slot] = {}

    def hold(self, slot: Slot) -> None:
        """Take in what has just been loaded."""
        slot.on_idle = self._news
        if slot.base is None:
            self._slots.append(slot)

    def retire(self, slot: Slot) -> None:
        """Close it when the last request that uses it has ended, or when they have taken too long."""
        task = asyncio.create_task(self._drain(slot), name=f"drain {slot.spec.name}")
        self._draining[task] = slot
        task.add_done_callback(lambda done: self._draining.pop(done, None))

    async def remove(self, slots: Iterable[Slot]) -> None:
        """Close what nobody uses, and give its memory back. Adapters come before their bases."""
        gone = list(slots)
        async with self.quiet:
            ends = await asyncio.gather(*(slot.model.close() for slot in gone if slot.loaded), return_exceptions=True)
            for slot in gone:
                slot.loaded = None
            for error in filter(None, ends):
                log.error("a model could not be closed", exc_info=error)
            if any(slot.base is None for slot in gone):
                await asyncio.to_thread(give_back)
        self._slots = [slot for slot in self._slots if slot not in gone]
        self._news()

    async def clean(self) -> None:
        """Give back what a load left behind that failed."""
        async with self.quiet:
            await asyncio.to_thread(give_back)

    @property
    def staying(self) -> list[Slot]:
        """Models that do not leave by themselves."""
        leaving = self._draining.values()
        return [slot for slot in self._slots if slot not in leaving]

    @property
    def placements(self) -> list[Placement]:
        """Where everything lies that is in memory."""
        return [slot.placement for slot in self._slots]

    async def close(self) -> None:
        """End every stream and close every model, those that drain too."""
        for task in self._draining:
            task.cancel()
        if self._draining:
            await asyncio.wait(self._draining)
        await asyncio.gather(*(slot.model.close() for slot in self._slots if slot.loaded))

    async def _drain(self, slot: Slot) -> None:
        try:
            async with asyncio.timeout(self._drain_limit_s):
                await slot.unused.wait()
        except TimeoutError:
            log.warning("model %s: %d requests did not end in time and are ended", slot.spec.name, slot.num_users)
        await self.remove([slot])


def give_back() -> None:
    """Return what closed models held to the devices and to the system. Blocks for up to a second."""
    gc.collect()  # an engine, its thread and its streams know each other
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # a C library without it
            log.debug("this system has no malloc_trim")
