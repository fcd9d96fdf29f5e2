"""Loads one model at a time, first come first served, and makes room for the first in line. No torch here.

    jobs:  B ──> C ──> A again
           │     └ fits beside everything, and beside B's claim too: goes ahead
           └ no room: the least recently used take no new requests; idle at last, they leave; B is loaded

So nobody waits for ever: whoever is first gets its room as soon as the requests that run there have ended, and those
who ask meanwhile for what leaves stand in line behind it.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from model_service.placement import eviction
from model_service.placement.memory import Memory
from model_service.placement.room import NoRoom, Placement, Planner
from model_service.placement.slot import Slot
from model_service.placement.waiting import Job

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What the queue asks of the pool."""

    async def carry_out(self, job: Job, placement: Placement) -> bool:
        """Load a model and end its job; false if it has to wait for its base first. Nothing is raised."""

    def give_up(self, job: Job, error: Exception) -> None:
        """End a job that failed."""

    def leave_out(self, job: Job, why: str) -> None:
        """End a job nobody waits for, since there is no room."""

    async def evict(self, slots: Iterable[Slot]) -> None:
        """Let models leave memory that nobody uses."""

    def is_pinned(self, slot: Slot) -> bool:
        """Whether it, or an adapter on it, must stay."""


class LoadingQueue:
    """The loads that are under way or wait. news: set it whenever something has changed that they may wait for."""

    def __init__(self, planner: Planner, memory: Memory, keeper: Keeper, news: asyncio.Event) -> None:
        self._planner, self._memory, self._keeper, self._news = planner, memory, keeper, news
        self.jobs: list[Job] = []
        self._worker: asyncio.Task[None] | None = None

    def add(self, job: Job, *, before: Job | None = None) -> None:
        """Put a job in line: at its end, or before another."""
        self.jobs.insert(self.jobs.index(before) if before else len(self.jobs), job)
        self._news.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="load-models")

    def drop(self, job: Job) -> None:
        """Take a job out of the line; a load that is under way goes on, for nobody."""
        if job in self.jobs:
            self.jobs.remove(job)
        self._news.set()

    async def join(self) -> None:
        """Wait for the load that is under way, after every other job has been dropped."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        while self.jobs:
            self._news.clear()
            try:
                moved = await self._step()
            except Exception as error:  # our own bug must not leave everyone waiting
                log.exception("the line of loads broke")
                for job in self.jobs[:1]:
                    self._give_up(job, error)
                continue
            if not moved:
                await self._news.wait()

    async def _step(self) -> bool:
        """Do the next thing; false if there is nothing to do until something changes."""
        for job in [job for job in self.jobs if not job.wanted]:
            self.drop(job)
            job.end()
        waiting = [job for job in self.jobs if not job.waits_for_base]
        if not waiting:
            return not self.jobs
        first, *others = waiting
        if first.entry.slot is not None and first.entry.slot.open and not first.fresh:
            self.drop(first)
            first.arrive(first.entry.slot)
            return True
        placement = await self._place(first, self._memory.placements)
        if first not in self.jobs:
            return True
        if placement is not None:
            await self._begin(first, placement)
            return True
        if not first.visits:
            self.drop(first)
            self._keeper.leave_out(first, first.blocked)
            return True
        return await self._make_room(first, others)

    async def _make_room(self, first: Job, others: Sequence[Job]) -> bool:
        """Have models leave for the first in line; while they are busy, load what is in nobody's way."""
        first.victims = [slot for slot in first.victims if slot in self._memory.staying]
        if not first.victims and not await self._choose(first):
            return True
        first.victims = [slot for slot in first.victims if slot in self._memory.staying]
        if first.victims and not any(slot.num_users for slot in first.victims):
            leaving, first.victims = first.victims, []
            await self._keeper.evict(leaving)
            return True
        for job in others:
            if (placement := await self._overtakes(job, first)) is not None:
                await self._begin(job, placement)
                return True
        return False

    async def _choose(self, job: Job) -> bool:
        """Choose who leaves for a job; false if nobody can, which ends it."""
        staying = self._memory.staying
        residents = [
            eviction.Resident(
                number, slot.placement, slot.last_used, busy=bool(slot.num_users), pinned=self._keeper.is_pinned(slot)
            )
            for number, slot in enumerate(staying)
            if slot is not job.entry.slot
        ]
        own = [slot.placement for slot in staying if slot is job.entry.slot]
        try:
            numbers = await asyncio.to_thread(eviction.choose, self._planner, job.spec, residents, own)
        except NoRoom as error:
            pinned = ", ".join(staying[resident.number].spec.name for resident in residents if resident.pinned)
            stay = f" Pinned models stay: {pinned}." if pinned else ""
            stay += " What it replaces stays until it is there." if own else ""
            self._give_up(job, NoRoom(f"{error}{stay}"))
            return False
        except Exception as error:
            self._give_up(job, error)
            return False
        if job not in self.jobs:  # it was unloaded meanwhile
            return False
        job.victims = [staying[number] for number in numbers]
        for slot in job.victims:
            slot.leaving = True
        if job.victims:
            names = ", ".join(slot.spec.name for slot in job.victims)
            log.info("model %s needs room: %s will leave", job.spec.name, names)
        return True

    async def _overtakes(self, job: Job, first: Job) -> Placement | None:
        """Return where a job goes that fits now, and leaves the first in line the room it waits for."""
        if job.entry.slot is not None and not job.fresh:
            return None  # it leaves for somebody, and comes again later
        placement = await self._place(job, self._memory.placements)
        if placement is None or job not in self.jobs:
            return None
        staying = [slot.placement for slot in self._memory.staying if slot not in first.victims]
        fits = await asyncio.to_thread(eviction.fits, self._planner, first.spec, [*staying, placement])
        return placement if fits and job in self.jobs else None

    async def _place(self, job: Job, beside: Sequence[Placement]) -> Placement | None:
        """Ask where a model goes; without room it is None, and the job knows why. What else is wrong ends the job."""
        try:
            return await asyncio.to_thread(self._planner.place, job.spec, beside)
        except NoRoom as error:
            job.blocked = str(error)
        except Exception as error:  # its files are missing or torn: this model's problem alone
            self._give_up(job, error)
        return None

    def _give_up(self, job: Job, error: Exception) -> None:
        if job in self.jobs:
            self.drop(job)
            self._keeper.give_up(job, error)

    async def _begin(self, job: Job, placement: Placement) -> None:
        """Load; who asks for it meanwhile joins the job."""
        job.started = True
        if await self._keeper.carry_out(job, placement):
            self.drop(job)
        else:
            job.started = False
