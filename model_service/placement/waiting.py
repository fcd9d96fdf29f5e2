"""Requests that want a model, and the loads they wait for. No torch here.

    Visit ── the model is there ─────────────────────────────> it is held until the block ends
      └───── else ── joins a Job ── loaded: held at once ──> the same
                         └──── failed, or the limit is over: an error with a sentence

A load serves everyone who waits for it: when it ends they hold the model before anything else may happen to it.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from model_service.config import ModelSettings
from model_service.errors import ModelLoading, ModelNoRoom, ServiceError
from model_service.placement.entry import Entry
from model_service.placement.loaded import Model
from model_service.placement.room import Placement
from model_service.placement.slot import Slot

M = TypeVar("M", bound=Model)


class Job:
    """One load, of what an entry's name stands for. fresh: also if there is a model already, which it replaces."""

    def __init__(self, entry: Entry, spec: ModelSettings, *, fresh: bool = False, eager: bool = False) -> None:
        self.entry, self.spec, self.fresh = entry, spec, fresh
        self.eager = eager  # wanted although nobody waits; it takes no room from others
        self.visits: list[Visit[Model]] = []
        self.base: Visit[Model] | None = None  # an adapter's hold on what it runs on
        self.victims: list[Slot] = []  # who leaves for it
        self.progress = 0.0  # 0 to 1
        self.placement: Placement | None = None  # where it goes, once it is being loaded
        self.started = False
        self.over = False
        self.blocked = ""  # why there is no room, as a sentence

    @property
    def wanted(self) -> bool:
        """Whether it should still be done."""
        return self.started or self.eager or bool(self.visits)

    @property
    def waits_for_base(self) -> bool:
        """Whether another job has to end first."""
        return self.base is not None and not self.base.over

    def report(self, progress: float) -> None:
        """Note how far the load is, 0 to 1."""
        self.progress = min(max(progress, 0.0), 1.0)

    def arrive(self, slot: Slot) -> None:
        """Give everyone who waits the model."""
        for visit in self.visits:
            visit.arrive(slot)
        self.end()

    def fail(self, error: ServiceError) -> None:
        """Tell everyone who waits why there is no model."""
        for visit in self.visits:
            visit.fail(error)
        self.end()

    def end(self) -> None:
        """Let go of whatever it held."""
        self.visits, self.over = [], True
        for slot in self.victims:
            slot.leaving = False
        self.victims = []
        if self.base is not None:
            self.base.close()


class Visit(Generic[M]):
    """A request's claim on a model: it waits until the model is there, and keeps it from leaving until the block ends.

    limit_s: how long it may wait. patient: that is for room only; a load that has begun may take as long as it takes.
    left: called when it stops waiting.
    """

    def __init__(
        self, model_id: str, limit_s: float, *, patient: bool = False, left: Callable[[], None] = lambda: None
    ) -> None:
        self.model_id = model_id
        self.job: Job | None = None
        self._limit_s, self._patient, self._left = limit_s, patient, left
        self._deadline = asyncio.get_running_loop().time() + limit_s
        self._slot: Slot | None = None
        self._error: ServiceError | None = None
        self._over = asyncio.Event()
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def over(self) -> bool:
        """Whether the wait has ended, either way."""
        return self._over.is_set()

    @property
    def progress(self) -> float:
        """How much of the model is loaded, 0 to 1."""
        return self.job.progress if self.job else float(self._slot is not None)

    def join(self, job: Job) -> None:
        """Wait for a load."""
        self.job = job
        job.visits.append(cast(Visit[Model], self))

    def arrive(self, slot: Slot) -> None:
        """Hold the model."""
        self._held.enter_context(slot.use())
        self._slot, self.job = slot, None
        self._over.set()

    def fail(self, error: ServiceError) -> None:
        """End the wait."""
        self._error, self.job = error, None
        self._over.set()

    async def arrives(self, within_s: float) -> bool:
        """Wait for the model, at most so long; whether it is there.

        Raises what kept it away; ModelLoading or ModelNoRoom once the limit is over.
        """
        left_s = math.inf if self._sees_it_through else max(0, self._deadline - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(min(within_s, left_s)):
                await self._over.wait()
        except TimeoutError:
            if within_s < left_s or self._sees_it_through:
                return False
            raise self._too_late() from None
        if self._error is not None:
            raise self._error
        return True

    async def model(self) -> M:
        """Return the model as soon as it is there. Raises what `arrives` raises."""
        while not await self.arrives(self._limit_s):
            pass
        assert self._slot
        return cast(M, self._slot.model)

    @property
    def _sees_it_through(self) -> bool:
        return self._patient and self.job is not None and self.job.started

    def close(self) -> None:
        """Let go of the model, or stop waiting for it."""
        self._held.close()
        if self.job is not None:
            self.job.visits.remove(cast(Visit[Model], self))
            self.job = None
            self._left()

    def _too_late(self) -> ServiceError:
        job = self.job
        if job is not None and job.blocked and not job.started:
            return ModelNoRoom(
                self.model_id, f"{job.blocked} Nothing that could leave became free in {self._limit_s:g} s."
            )
        percent = int(100 * self.progress) if job is None or job.started else None
        return ModelLoading(self.model_id, percent=percent, waited_s=self._limit_s)
