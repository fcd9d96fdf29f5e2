"""The models the service holds: name -> engine. Loads, swaps, evicts and lets go of them. No torch here.

    entry.py           a name and its state: unloaded, loading, ready, failed
    waiting.py         a request's visit, and the load it may have to wait for
    loading_queue.py   one load at a time; makes room for the first in line
    eviction.py        who leaves            memory.py   who is there, and how they leave
    loads.py           carries a load out

A model that replaces another of the same name is loaded beside it; then one assignment makes it the one that
answers, and the old one is closed when the last request that uses it has ended. So a failed load changes nothing.
Everything here runs on the event loop; only the loader and the planner run in a thread, one at a time.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast

from model_service.config import ModelSettings
from model_service.errors import (
    Conflict,
    ModelFailed,
    ModelLoading,
    ModelNotFound,
    QueueFull,
    RequestRefused,
)
from model_service.models.folder import holds_adapter
from model_service.placement.adapted import adapter_folder
from model_service.placement.entry import Entry, Held
from model_service.placement.loaded import Generator, Labeller, Model
from model_service.placement.loading_queue import LoadingQueue
from model_service.placement.loads import STOPPING, Loader, Loads
from model_service.placement.memory import Memory
from model_service.placement.room import DeviceUse, NoLimits, Planner
from model_service.placement.tally import Tally
from model_service.placement.waiting import Job, Visit

log = logging.getLogger(__name__)

DRAIN_LIMIT_S = 120.0  # a replaced model's last streams get this long
LOAD_LIMIT_S = 120.0  # a request waits this long for its model
MAX_WAITING = 256  # requests that may wait for one model
CHECK_S = 0.5  # between two looks at whether every engine is alive

Task = Literal["generate", "classify"]


class Pool:
    """Models by name. `expect` what there is, then `start` what is loaded now; `close` at the end.

    load_limit_s: how long a request waits for its model. max_waiting: how many may wait for one.
    """

    def __init__(
        self,
        loader: Loader,
        planner: Planner | None = None,
        *,
        load_limit_s: float = LOAD_LIMIT_S,
        drain_limit_s: float = DRAIN_LIMIT_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._planner = planner or NoLimits()
        self._load_limit_s, self._max_waiting = load_limit_s, max_waiting
        self._entries: dict[str, Entry] = {}
        self._needed: tuple[str, ...] = ()
        self._news = asyncio.Event()
        self._memory = Memory(drain_limit_s, self._news.set)
        self.tally = Tally()
        self._loads = Loads(loader, self._entries, self._memory, self.tally, self._load_base)
        self._queue = LoadingQueue(self._planner, self._memory, self._loads, self._news)

    def expect(self, needed: Iterable[ModelSettings], others: Iterable[ModelSettings] = ()) -> None:
        """List the models there are; `ready` is about the needed ones."""
        needed = tuple(needed)
        self._needed = tuple(spec.name for spec in needed)
        for spec in (*needed, *others):
            self._entries[spec.name] = Entry(spec)

    def start(self, *, preload: bool = True) -> None:
        """Begin to load the needed models as far as there is room, pinned ones first; without preload, only these."""
        entries = [self._entries[name] for name in self._needed]
        for entry in sorted(entries, key=lambda entry: (not entry.pinned, holds_adapter(Path(entry.spec.source)))):
            if preload or entry.pinned:
                self._queue.add(Job(entry, entry.spec, eager=True))

    async def load(self, spec: ModelSettings) -> None:
        """Load a model and let it answer under its name; what had the name answers until then, and drains.

        Waits for room within the limit. Raises ModelFailed or ModelNoRoom; nothing else changes then.
        """
        if self._loads.closed:
            raise ModelFailed(spec.name, STOPPING)
        entry = self._entries.setdefault(spec.name, Entry(spec))
        if entry.slot is None:
            entry.spec, entry.error = spec, None
        job = next(
            (
                job
                for job in self._queue.jobs
                if job.entry is entry and job.spec == spec and not (job.started or job.over)
            ),
            None,
        )
        with Visit[Model](spec.name, self._load_limit_s, patient=True, left=self._news.set) as visit:
            if job is None:
                job = Job(entry, spec, fresh=True)
                visit.join(job)
                self._queue.add(job)
            else:
                visit.join(job)
            await visit.model()

    async def unload(self, model_id: str) -> None:
        """Stop answering under this name at once; what runs is finished first.

        Raises ModelNotFound, or Conflict while adapters run on it.
        """
        entry = self._entry(model_id)
        if names := [slot.spec.name for slot in self._loads.carried(entry.slot)]:
            raise Conflict(f"These adapters run on {model_id}: {', '.join(names)}. Unload them first.")
        del self._entries[model_id]
        for job in [job for job in self._queue.jobs if job.entry is entry and not job.started]:
            self._queue.drop(job)
            job.fail(ModelFailed(model_id, "it was unloaded while it was loading."))
        if entry.slot is not None:
            self._memory.retire(entry.slot)
        log.info("model %s unloaded", model_id)

    async def close(self) -> None:
        """End every stream and every wait, close every model; waits for a load that is under way."""
        self._loads.closed = True
        for job in list(self._queue.jobs):
            if not job.started:
                self._queue.drop(job)
            job.fail(ModelFailed(job.spec.name, STOPPING))
        await self._memory.close()
        await self._queue.join()

    async def watch(self) -> None:
        """Look after the engines for ever: one that has stopped is loaded again, after a pause."""
        while True:
            await asyncio.sleep(CHECK_S)
            for entry in self._entries.values():
                if entry.slot is not None and not entry.slot.base and not entry.slot.alive:
                    self._loads.bury(entry)
                if entry.revive and not entry.backoff.remaining_s and not self._loads.closed:
                    entry.revive = False
                    if self._job(entry) is None:
                        self._queue.add(Job(entry, entry.spec, eager=True))

    def generating(self, model_id: str) -> Visit[Generator]:
        """Ask for a model that continues texts; use it with `with`. Raises ModelNotFound, ModelFailed, QueueFull."""
        return cast(Visit[Generator], self._visit(model_id, "generate"))

    def classifying(self, model_id: str) -> Visit[Labeller]:
        """Ask for a model that classifies texts; use it with `with`. Raises ModelNotFound, ModelFailed, QueueFull."""
        return cast(Visit[Labeller], self._visit(model_id, "classify"))

    def folder(self, model_id: str) -> Path:
        """Return where the model's files lie.

        Raises ModelNotFound, RequestRefused for an adapter, or ModelLoading while nobody has fetched them yet.
        """
        entry = self._entry(model_id)
        folder = entry.folder or Path(entry.spec.source).expanduser()
        if entry.is_adapter or holds_adapter(folder):
            base = entry.slot.base.spec.name if entry.slot and entry.slot.base else adapter_folder(folder).bases[0]
            raise RequestRefused(ONLY_AN_ADAPTER.format(model_id, base), param="model")
        if entry.folder is None and not folder.is_dir():
            if refusal := entry.refusal:
                raise refusal
            if self._job(entry) is None:
                self._queue.add(Job(entry, entry.spec, eager=True))
            raise ModelLoading(model_id)
        return folder

    def describe(self) -> list[Held]:
        """List every model, in the order they came."""
        return [self._held(entry) for entry in self._entries.values()]

    def find(self, model_id: str) -> Held:
        """Describe one model, in whatever state. Raises ModelNotFound."""
        return self._held(self._entry(model_id))

    @property
    def num_in_memory(self) -> int:
        """How many models take room, those included that still end what they began."""
        return len(self._memory.placements)

    def devices(self) -> Sequence[DeviceUse]:
        """List the devices, and what the models take of them that are in memory or on their way there."""
        coming = [job.placement for job in self._queue.jobs if job.placement and not job.over]
        return self._planner.devices([*self._memory.placements, *coming])

    def generators(self) -> list[tuple[str, Generator]]:
        """Return the models that continue texts and are ready, with their names; adapters run on one of these."""
        slots = [entry.slot for entry in self._entries.values() if entry.slot and not entry.slot.base]
        return [(slot.spec.name, cast(Generator, slot.model)) for slot in slots if slot.spec.task == "generate"]

    @property
    def busy(self) -> bool:
        """Whether somebody is being answered, or waits for it."""
        return any(model.num_running or model.num_waiting for _, model in self.generators())

    @property
    def ready(self) -> bool:
        """Whether every start-up model answers, or would if it were asked."""
        return not self.missing()

    def missing(self) -> dict[str, str]:
        """Return the start-up models that do not answer, each with why. One that loads when asked counts as there."""
        reasons = {name: self._why_not(self._entries[name]) for name in self._needed if name in self._entries}
        return {name: reason for name, reason in reasons.items() if reason}

    def _why_not(self, entry: Entry) -> str:
        held = self._held(entry)
        if held.state == "unloaded" and looks_like_a_path(entry.spec.source) and not Path(entry.spec.source).is_dir():
            return f"there is no folder {entry.spec.source}"
        return {"ready": "", "unloaded": "", "loading": "still loading"}.get(held.state) or held.error or ""

    def _held(self, entry: Entry) -> Held:
        job = self._job(entry)
        return entry.held(job.progress, job.placement) if job else entry.held(None)

    def _entry(self, model_id: str) -> Entry:
        if model_id not in self._entries:
            raise ModelNotFound(model_id, list(self._entries))
        return self._entries[model_id]

    def _visit(self, model_id: str, task: Task) -> Visit[Model]:
        entry = self._entry(model_id)
        if entry.spec.task != task:
            raise RequestRefused(WRONG_TASK[task].format(model_id), param="model", code="wrong_task")
        if self._loads.closed:
            raise ModelFailed(model_id, STOPPING)
        visit = Visit[Model](model_id, self._load_limit_s, left=self._news.set)
        self._bring(entry, visit)
        return visit

    def _bring(self, entry: Entry, visit: Visit[Model], before: Job | None = None) -> None:
        """Give a visit its model, or let it wait for it. before: whose load waits for this one."""
        slot = entry.slot.base if entry.slot and entry.slot.base else entry.slot
        if slot is not None and not slot.alive:
            self._loads.bury(self._entries[slot.spec.name])
        if entry.slot is not None and entry.slot.open:
            return visit.arrive(entry.slot)
        job = self._job(entry)
        if job is None and (refusal := entry.refusal):
            raise refusal
        if job is not None and len(job.visits) >= self._max_waiting:
            raise QueueFull(retry_after_s=2.0)
        visit.join(job or self._ask(entry, before))

    def _load_base(self, base: Entry, adapter: Job) -> None:
        if adapter.base is not None:  # it leaves before the adapter was on it
            adapter.base.close()
        adapter.base = Visit[Model](base.spec.name, self._load_limit_s)
        self._bring(base, adapter.base, before=adapter)

    def _ask(self, entry: Entry, before: Job | None = None) -> Job:
        job = Job(entry, entry.spec)
        self._queue.add(job, before=before)
        return job

    def _job(self, entry: Entry) -> Job | None:
        return next((job for job in self._queue.jobs if job.entry is entry and not job.over), None)


WRONG_TASK = {
    "generate": "The model {!a} classifies texts, it cannot continue them: send it to /v1/classify instead.",
    "classify": "The model {!a} continues texts, it cannot classify them: send it to /v1/completions instead.",
}
ONLY_AN_ADAPTER = "The model {!a} is an adapter on {!a}; it has no weights to start a training from. Choose its base."


def looks_like_a_path(source: str) -> bool:
    """Whether a source can only be a folder, and no hub id."""
    return Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1
