"""A loader whose models the test makes, and a planner that knows only byte budgets. No torch."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from model_service.config import ModelSettings
from model_service.placement.adapted import AdaptedGenerator, AdapterFolder
from model_service.placement.entry import Held
from model_service.placement.loaded import Generator, Loaded
from model_service.placement.loads import Progress
from model_service.placement.pool import Pool
from model_service.placement.room import DeviceUse, NoRoom, Placement

LIMIT_S = 10.0


class Model:
    """A model that knows only whether it was closed."""

    def __init__(self, source: str) -> None:
        self.source, self.closed, self.alive = source, asyncio.Event(), True
        self.num_running = self.num_waiting = self.reused_tokens = 0

    async def load_adapter(self, name: str, folder: Path) -> int:
        return 10

    def drop_adapter(self, name: str) -> None: ...

    async def close(self) -> None:
        self.closed.set()


class Shelf:
    """A loader: `gates` hold a source back, `broken` says how another fails, `adapters` what one runs on."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.gates: dict[str, threading.Event] = {}
        self.broken: dict[str, Exception] = {}
        self.order: list[str] = []
        self.progress: dict[str, Progress] = {}
        self.started = threading.Event()
        self.num_loading = self.most_loading = 0

    def __call__(self, spec: ModelSettings, progress: Progress, placement: Placement) -> Loaded | AdapterFolder:
        if spec.source in self.adapters:
            return AdapterFolder(Path("/models") / spec.source, (self.adapters[spec.source],))
        self.num_loading += 1
        self.most_loading = max(self.most_loading, self.num_loading)
        self.order.append(spec.name)
        self.progress[spec.name] = progress
        self.started.set()
        try:
            return self._load(spec)
        finally:
            self.num_loading -= 1

    def _load(self, spec: ModelSettings) -> Loaded:
        if spec.source in self.gates:
            assert self.gates[spec.source].wait(LIMIT_S)
        if spec.source in self.broken:
            raise self.broken[spec.source]
        model = cast(Generator, Model(spec.source))
        return Loaded(model, Path("/models") / spec.source, {"layers 0-1": "cpu"}, 1000, "float32")


@dataclass(frozen=True)
class Placed:
    """Where a model goes."""

    device_bytes: Mapping[str, int]
    why: str


@dataclass
class Budget:
    """A planner over devices of so many bytes. sizes: of each source."""

    devices_bytes: Mapping[str, int]
    sizes: Mapping[str, int]

    def place(self, spec: ModelSettings, beside: Sequence[Placement]) -> Placed:
        size = self.sizes[spec.source]
        for device in self.devices(beside):
            assert device.used_bytes <= device.total_bytes
            if size <= device.total_bytes - device.used_bytes:
                return Placed({device.name: size}, f"It fits on {device.name}.")
        free = ", ".join(f"{d.name} {d.total_bytes - d.used_bytes}" for d in self.devices(beside))
        raise NoRoom(f"it needs {size} bytes, and there is free: {free}.")

    def devices(self, beside: Sequence[Placement]) -> list[DeviceUse]:
        return [
            DeviceUse(name, total, sum(placed.device_bytes.get(name, 0) for placed in beside))
            for name, total in self.devices_bytes.items()
        ]


def spec(name: str, source: str = "v1", task: str = "generate", *, pinned: bool = False) -> ModelSettings:
    """A `[[service.models]]` table."""
    return ModelSettings.model_validate({"name": name, "source": source, "task": task, "pinned": pinned})


def states(pool: Pool) -> dict[str, str]:
    """The state of every model."""
    return {held.id: held.state for held in pool.describe()}


async def source_of(pool: Pool, name: str) -> str:
    """Which weights answer under a name; loads them if they are not there."""
    with pool.generating(name) as visit:
        async with asyncio.timeout(LIMIT_S):
            return source_under(await visit.model())


def source_under(model: object) -> str:
    """Which weights answer; an adapter's with its base's."""
    if isinstance(model, AdaptedGenerator):
        return f"{model._key.split()[0]} on {cast(Model, model._base).source}"
    return cast(Model, model).source


async def reaches(pool: Pool, name: str, state: str) -> Held:
    """Wait until a model is in a state."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            if (held := pool.find(name)).state == state:
                return held
            await asyncio.sleep(0.005)
