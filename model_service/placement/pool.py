"""The models the service holds: name -> engine. Loads, swaps and lets go of them. No torch here.

    loading ──> ready ──> draining (still answers what it began) ──> closed
       └──────> failed (the reason is kept, the others go on)

A model that replaces another of the same name is loaded beside it; then one assignment makes it the one that
answers, and the old one is closed when the last request that uses it has ended. So a failed load changes nothing.
Everything here runs on the event loop; only the loader runs in a thread, one model at a time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from model_service.config import ModelSettings
from model_service.errors import Conflict, ModelFailed, ModelLoading, ModelNotFound, RequestRefused
from model_service.placement.adapted import AdapterFolder, AdapterRefused, find_base, put_on
from model_service.placement.loaded import Generator, Labeller, Loaded, Model
from model_service.placement.slot import Held, Slot

log = logging.getLogger(__name__)

STOPPING = "the service is stopping."
DRAIN_LIMIT_S = 120.0  # a replaced model's last streams get this long

Loader = Callable[[ModelSettings], Loaded | AdapterFolder]  # blocks; whatever it raises is the reason of the failure


class Pool:
    """Models by name. `expect` what must be there, then `load` each; `close` at the end."""

    def __init__(self, loader: Loader, *, drain_limit_s: float = DRAIN_LIMIT_S) -> None:
        self._loader = loader
        self._drain_limit_s = drain_limit_s
        self._slots: dict[str, Slot] = {}
        self._needed: tuple[str, ...] = ()
        self._loading = asyncio.Lock()
        self._draining: dict[asyncio.Task[None], Slot] = {}
        self._closed = False

    def expect(self, needed: Iterable[ModelSettings], others: Iterable[ModelSettings] = ()) -> None:
        """List the start-up models as loading, before the first is loaded; `ready` waits for the needed ones."""
        self._slots = {spec.name: Slot(spec) for spec in (*needed, *others)}
        self._needed = tuple(spec.name for spec in needed)

    async def load(self, spec: ModelSettings) -> None:
        """Load a model and let it answer under its name; what had the name answers until then, and drains.

        Raises ModelFailed with the reason; nothing else changes then.
        """
        before = self._slots.get(spec.name)
        if before is None or before.state == "failed":
            self._slots[spec.name] = Slot(spec)
        async with self._loading:
            if self._closed:
                raise ModelFailed(spec.name, STOPPING)
            started = time.monotonic()
            try:
                slots = await self._prepare(spec)
            except Exception as error:  # a loader may fail in any way; each is this model's problem alone
                log.warning("model %s failed to load: %s", spec.name, error, exc_info=log.isEnabledFor(logging.DEBUG))
                self._fail(spec.name, reason_of(error))
                raise ModelFailed(spec.name, reason_of(error)) from error
            if why := self._too_late(slots[0]):
                await asyncio.gather(*(slot.model.close() for slot in slots))
                self._fail(spec.name, why)
                raise ModelFailed(spec.name, why)
            for slot in slots:
                self._put(slot)
            log.info("model %s ready after %.1f s (%s)", spec.name, time.monotonic() - started, slots[0].held().weights)

    async def unload(self, model_id: str) -> None:
        """Stop answering under this name at once; what runs is finished first.

        Raises ModelNotFound, or Conflict while adapters run on it.
        """
        if model_id not in self._slots:
            raise ModelNotFound(model_id, list(self._slots))
        if names := [slot.spec.name for slot in self._carried(model_id)]:
            raise Conflict(f"These adapters run on {model_id}: {', '.join(names)}. Unload them first.")
        self._retire(self._slots.pop(model_id))
        log.info("model %s unloaded", model_id)

    async def close(self) -> None:
        """End every stream, close every model; waits for a load that is under way."""
        self._closed = True
        for task in self._draining:
            task.cancel()
        leaving = [*self._draining.values(), *self._slots.values()]
        await asyncio.gather(*(slot.loaded.model.close() for slot in leaving if slot.loaded))
        if self._draining:
            await asyncio.wait(self._draining)
        async with self._loading:
            pass

    @contextmanager
    def generating(self, model_id: str) -> Iterator[Generator]:
        """Use a model that continues texts; it is not closed before the block ends."""
        with self._ready(model_id, "generate") as model:
            yield cast(Generator, model)

    @contextmanager
    def classifying(self, model_id: str) -> Iterator[Labeller]:
        """Use a model that classifies texts; it is not closed before the block ends."""
        with self._ready(model_id, "classify") as model:
            yield cast(Labeller, model)

    def engine(self, model_id: str) -> Generator:
        """Return the model that continues texts under this name right now."""
        with self.generating(model_id) as model:
            return model

    def classifier(self, model_id: str) -> Labeller:
        """Return the model that classifies texts under this name right now."""
        with self.classifying(model_id) as model:
            return model

    def folder(self, model_id: str) -> Path:
        """Return where the model's files lie.

        Raises ModelNotFound, ModelLoading, ModelFailed, or RequestRefused for an adapter.
        """
        slot = self._find(model_id)
        if slot.base:
            raise RequestRefused(ONLY_AN_ADAPTER.format(model_id, slot.base.spec.name), param="model")
        return slot.folder

    def describe(self) -> list[Held]:
        """List every model, in the order they came."""
        return [slot.held() for slot in self._slots.values()]

    def find(self, model_id: str) -> Held:
        """Describe one model, in whatever state. Raises ModelNotFound."""
        if model_id not in self._slots:
            raise ModelNotFound(model_id, list(self._slots))
        return self._slots[model_id].held()

    def generators(self) -> list[tuple[str, Generator]]:
        """Return the models that continue texts and are ready, with their names; adapters run on one of these."""
        slots = [slot for slot in self._slots.values() if slot.spec.task == "generate" and not slot.base]
        return [(slot.spec.name, cast(Generator, slot.loaded.model)) for slot in slots if slot.loaded]

    @property
    def ready(self) -> bool:
        """Whether every start-up model answers."""
        return not self.missing()

    def missing(self) -> dict[str, str]:
        """Return the start-up models that do not answer, each with why."""
        reasons = {name: self._slots[name].why_not() for name in self._needed if name in self._slots}
        return {name: reason for name, reason in reasons.items() if reason}

    @contextmanager
    def _ready(self, model_id: str, task: Literal["generate", "classify"]) -> Iterator[Model]:
        slot = self._find(model_id)
        if slot.spec.task != task:
            raise RequestRefused(WRONG_TASK[task].format(model_id), param="model", code="wrong_task")
        with slot.use():
            yield slot.model

    def _find(self, model_id: str) -> Slot:
        slot = self._slots.get(model_id)
        if slot is None:
            raise ModelNotFound(model_id, list(self._slots))
        if slot.state == "failed":
            raise ModelFailed(model_id, slot.error or "unknown reason.")
        if slot.state == "loading":
            raise ModelLoading(model_id)
        return slot

    async def _prepare(self, spec: ModelSettings) -> list[Slot]:
        """Load a model, and onto it the adapters of the one it replaces; or an adapter onto its base."""
        found = await asyncio.to_thread(self._loader, spec)
        carried = self._carried(spec.name)
        if isinstance(found, AdapterFolder):
            if carried:
                raise AdapterRefused(f"it would replace the base of {', '.join(slot.spec.name for slot in carried)}.")
            base = find_base(spec, found, [slot for slot in self._slots.values() if not slot.base])
            return [await put_on(base, spec, found.folder)]
        new = Slot(spec, found)
        try:
            return [new, *[await put_on(new, slot.spec, slot.folder) for slot in carried]]
        except Exception:
            await found.model.close()
            raise

    def _carried(self, name: str) -> list[Slot]:
        """Return the adapters that run on a model."""
        return [slot for slot in self._slots.values() if slot.base and slot.base is self._slots.get(name)]

    def _too_late(self, slot: Slot) -> str:
        """Say why what has just been loaded is not wanted any more; empty if it is."""
        if self._closed:
            return STOPPING
        if slot.spec.name not in self._slots:
            return "it was unloaded while it was loading."
        if slot.base and self._slots.get(slot.base.spec.name) is not slot.base:
            return f"its base {slot.base.spec.name!a} was unloaded while it was loading."
        return ""

    def _put(self, slot: Slot) -> None:
        old = self._slots.get(slot.spec.name)
        if old is None:  # an adapter that was unloaded while its base was being replaced
            return self._retire(slot)
        self._slots[slot.spec.name] = slot
        self._retire(old)

    def _fail(self, name: str, reason: str) -> None:
        slot = self._slots.get(name)
        if slot and slot.state != "ready":
            slot.state, slot.error = "failed", reason

    def _retire(self, slot: Slot) -> None:
        if slot.loaded:
            task = asyncio.create_task(self._drain(slot, slot.loaded.model), name=f"drain {slot.spec.name}")
            self._draining[task] = slot
            task.add_done_callback(lambda done: self._draining.pop(done, None))

    async def _drain(self, slot: Slot, model: Model) -> None:
        try:
            async with asyncio.timeout(self._drain_limit_s):
                await slot.unused.wait()
        except TimeoutError:
            log.warning("model %s: %d requests did not end in time and are ended", slot.spec.name, slot.num_users)
        await model.close()


WRONG_TASK = {
    "generate": "The model {!a} classifies texts, it cannot continue them: send it to /v1/classify instead.",
    "classify": "The model {!a} continues texts, it cannot classify them: send it to /v1/completions instead.",
}
ONLY_AN_ADAPTER = "The model {!a} is an adapter on {!a}; it has no weights to start a training from. Choose its base."


def reason_of(error: Exception) -> str:
    """Say in one line why a load failed."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
