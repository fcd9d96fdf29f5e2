"""Carries out one load: the files in a thread, an adapter onto its base, the new model into its name's entry.

    loader ─┬─> a model ──> with the adapters of the one it replaces ──> one assignment ──> the old one drains
            └─> an adapter ──> its base is loaded first ──> put on it
Whatever goes wrong is this model's problem alone; the entry keeps the reason. No torch here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from model_service.config import ModelSettings
from model_service.errors import ModelFailed, ModelNoRoom
from model_service.placement.adapted import AdapterFolder, AdapterRefused, check_tasks, find_base, put_on
from model_service.placement.entry import DEAD, Entry
from model_service.placement.failures import FORGIVEN_S, is_transient, reason_of
from model_service.placement.loaded import Loaded
from model_service.placement.memory import Memory
from model_service.placement.room import NoRoom, Placement
from model_service.placement.slot import Slot
from model_service.placement.tally import Tally
from model_service.placement.waiting import Job

log = logging.getLogger(__name__)

STOPPING = "the service is stopping."
Progress = Callable[[float], None]  # 0 to 1
Loader = Callable[[ModelSettings, Progress, Placement], Loaded | AdapterFolder]
WaitForBase = Callable[[Entry, Job], None]  # puts the base's load in line before an adapter's


class Loads:
    """Loads what the queue tells it to; knows every entry. `closed`: nothing is wanted any more."""

    def __init__(
        self, loader: Loader, entries: dict[str, Entry], memory: Memory, tally: Tally, wait_for_base: WaitForBase
    ) -> None:
        self._loader, self._entries, self._memory, self._tally = loader, entries, memory, tally
        self._wait_for_base = wait_for_base
        self.closed = False

    async def carry_out(self, job: Job, placement: Placement) -> bool:
        """Load a model and end its job; false if it has to wait for its base first. Nothing is raised."""
        job.placement = placement
        started = time.monotonic()
        try:
            slots = await self._prepare(job, placement)
        except Exception as error:  # a loader may fail in any way
            self.give_up(job, error)
            await self._memory.clean()
            return True
        if not slots:
            return False
        if why := self._too_late(job.entry, slots[0]):
            await self._memory.remove(slots)
            self.give_up(job, ModelFailed(job.spec.name, why))
            return True
        for slot in slots:
            self._put(slot)
        took_s = time.monotonic() - started
        self._tally.loaded(job.spec.name, took_s)
        log.info("model %s ready after %.1f s (%s)", job.spec.name, took_s, job.entry.held(None).weights)
        job.arrive(slots[0])
        return True

    def give_up(self, job: Job, error: Exception) -> None:
        """End a job that failed: the entry keeps the reason, everyone who waits hears it."""
        name, reason = job.spec.name, error.reason if isinstance(error, ModelFailed) else reason_of(error)
        log.warning(
            "model %s failed to load: %s", name, reason, exc_info=error if log.isEnabledFor(logging.DEBUG) else None
        )
        self._tally.failed(name)
        entry, no_room = job.entry, isinstance(error, NoRoom)
        transient = is_transient(error) or getattr(error, "retry_after_s", None) is not None
        if entry.slot is None:
            entry.fail(reason, transient=transient, pause=not no_room)  # to look for room again costs nothing
        pause_s = entry.backoff.remaining_s if transient else None
        job.fail(ModelNoRoom(name, reason) if no_room else ModelFailed(name, reason, pause_s))

    def leave_out(self, job: Job, why: str) -> None:
        """End a job nobody waits for, since there is no room."""
        log.info("model %s is not loaded until somebody asks for it: %s", job.spec.name, why)
        if job.entry.slot is None:
            job.entry.unload(why)
        job.end()

    async def evict(self, slots: Iterable[Slot]) -> None:
        """Let models leave memory, and the adapters on them."""
        leaving = [slot for slot in slots if self._is_current(slot)]
        with_adapters = [*(adapter for slot in leaving for adapter in self.carried(slot)), *leaving]
        for slot in with_adapters:
            self._entries[slot.spec.name].unload("It left to make room; it is loaded again when somebody asks for it.")
            self._tally.evicted(slot.spec.name)
        await self._memory.remove(with_adapters)
        log.info("evicted: %s", ", ".join(slot.spec.name for slot in with_adapters))

    def _is_current(self, slot: Slot) -> bool:
        entry = self._entries.get(slot.spec.name)
        return entry is not None and entry.slot is slot

    def carried(self, base: Slot | None) -> list[Slot]:
        """Return the adapters that run on a model."""
        slots = (entry.slot for entry in self._entries.values())
        return [slot for slot in slots if slot and slot.base and slot.base is base]

    def is_pinned(self, slot: Slot) -> bool:
        """Whether it, or an adapter on it, must stay."""
        return any(one.spec.pinned for one in (slot, *self.carried(slot)))

    def bury(self, entry: Entry) -> None:
        """Take a model out whose engine has stopped; it is loaded again by itself, after a pause."""
        slot = entry.slot
        assert slot
        log.warning("the engine of %s has stopped", entry.spec.name)
        for adapter in self.carried(slot):
            self._entries[adapter.spec.name].unload(f"The engine of {entry.spec.name} stopped.")
        if time.monotonic() - slot.since > FORGIVEN_S:
            entry.backoff.forgive()
        entry.slot = None
        entry.fail(DEAD, transient=True)
        entry.revive = True
        self._memory.retire(slot)

    async def _prepare(self, job: Job, placement: Placement) -> list[Slot]:
        """Load a model, and onto it the adapters of the one it replaces; or an adapter onto its base.

        Returns none if the base has to come first.
        """
        spec = job.spec
        loop = asyncio.get_running_loop()

        def report(progress: float) -> None:
            loop.call_soon_threadsafe(job.report, progress)

        async with self._memory.quiet:
            found = await asyncio.to_thread(self._loader, spec, report, placement)
        carried = self.carried(job.entry.slot)
        if isinstance(found, AdapterFolder):
            job.entry.folder, job.entry.is_adapter = found.folder, True
            if carried:
                raise AdapterRefused(f"it would replace the base of {', '.join(slot.spec.name for slot in carried)}.")
            base = find_base(spec, found, self._entries.values())
            check_tasks(base.spec, spec)
            if base.slot is None or not base.slot.open:
                try:
                    self._wait_for_base(base, job)
                except ModelFailed as error:
                    reason = f"its base {base.spec.name!a} could not be loaded: {error.reason}"
                    raise ModelFailed(spec.name, reason, error.retry_after_s) from None
                return []
            with base.slot.use():
                return [await put_on(base.slot, spec, found.folder)]
        new = Slot(spec, found, placement)
        try:
            return [new, *[await put_on(new, slot.spec, slot.folder) for slot in carried]]
        except Exception:
            await found.model.close()
            raise

    def _too_late(self, entry: Entry, slot: Slot) -> str:
        """Say why what has just been loaded is not wanted any more; empty if it is."""
        if self.closed:
            return STOPPING
        if self._entries.get(slot.spec.name) is not entry:
            return "it was unloaded while it was loading."
        base = self._entries.get(slot.base.spec.name) if slot.base else None
        if slot.base and not (base and base.slot is slot.base):
            return f"its base {slot.base.spec.name!a} was unloaded while it was loading."
        return ""

    def _put(self, slot: Slot) -> None:
        self._memory.hold(slot)
        entry = self._entries.get(slot.spec.name)
        if entry is None:  # an adapter that was unloaded while its base was being replaced
            return self._memory.retire(slot)
        old = entry.slot
        entry.put(slot)
        if old is not None:
            self._memory.retire(old)
