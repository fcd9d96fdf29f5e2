"""One name in the pool: the model behind it, the state it is in, and how many requests use it. No torch here."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model_service.config import ModelSettings
from model_service.placement.loaded import Generator, Labeller, Loaded

State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Held:
    """A model as the pool sees it right now."""

    id: str
    task: Literal["generate", "classify"]
    state: State
    created: int
    tuned: bool
    error: str | None = None
    device_map: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    weights: str = ""


class Slot:
    """One loaded (or loading) model and how many requests use it. base: whose engine an adapter runs on."""

    def __init__(self, spec: ModelSettings, loaded: Loaded | None = None, base: "Slot | None" = None) -> None:
        self.spec = spec
        self.state: State = "ready" if loaded else "loading"
        self.error: str | None = None
        self.loaded = loaded
        self.base = base
        self.created = int(time.time())
        self.num_users = 0
        self.unused = asyncio.Event()
        self.unused.set()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Count as a user, so that draining waits; of the base too."""
        with self.base.use() if self.base else nullcontext():
            self.num_users += 1
            self.unused.clear()
            try:
                yield
            finally:
                self.num_users -= 1
                if not self.num_users:
                    self.unused.set()

    @property
    def model(self) -> Generator | Labeller:
        """The model; only a slot that is ready has one."""
        assert self.loaded
        return self.loaded.model

    @property
    def folder(self) -> Path:
        """Where the model's files lie; only of a slot that is ready."""
        assert self.loaded
        return self.loaded.folder

    def why_not(self) -> str:
        """Say why it does not answer; empty if it does."""
        if self.state == "ready" and self.loaded and not getattr(self.loaded.model, "alive", True):
            return "its engine has stopped: restart the service; the log says why"
        return "" if self.state == "ready" else self.error or "still loading"

    def held(self) -> Held:
        """Describe it."""
        loaded = self.loaded
        return Held(
            id=self.spec.name,
            task=self.spec.task,
            state=self.state,
            created=self.created,
            tuned=self.spec.name.startswith("ft:"),
            error=self.error,
            device_map=loaded.device_map if loaded else {},
            size_bytes=loaded.size_bytes if loaded else 0,
            weights=loaded.weights if loaded else self.spec.weights,
        )
