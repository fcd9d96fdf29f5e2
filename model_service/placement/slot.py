"""A model in memory: how many requests use it, and since when nobody does. No torch here."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from model_service.config import ModelSettings
from model_service.placement.loaded import Generator, Labeller, Loaded
from model_service.placement.room import Placement


class Slot:
    """One loaded model. base: whose engine an adapter runs on; its placement is then the base's."""

    def __init__(self, spec: ModelSettings, loaded: Loaded, placement: Placement, base: "Slot | None" = None) -> None:
        self.spec = spec
        self.loaded: Loaded | None = loaded  # None once it is closed
        self.base = base
        self.placement = placement
        self.leaving = False  # it takes no new requests, so that another gets its room
        self.since = self.last_used = time.monotonic()
        self.num_users = 0
        self.unused = asyncio.Event()
        self.unused.set()
        self.on_idle: Callable[[], None] = lambda: None

    @contextmanager
    def use(self) -> Iterator[None]:
        """Count as a user, so that it is not closed; of the base too."""
        with self.base.use() if self.base else nullcontext():
            self.num_users += 1
            self.unused.clear()
            try:
                yield
            finally:
                self.num_users -= 1
                self.last_used = time.monotonic()
                if not self.num_users:
                    self.unused.set()
                    self.on_idle()

    @property
    def model(self) -> Generator | Labeller:
        """The model; only a slot that is not closed has one."""
        assert self.loaded
        return self.loaded.model

    @property
    def folder(self) -> Path:
        """Where the model's files lie."""
        assert self.loaded
        return self.loaded.folder

    @property
    def alive(self) -> bool:
        """Whether its engine runs."""
        return bool(self.loaded) and bool(getattr(self.model, "alive", True))

    @property
    def open(self) -> bool:
        """Whether it takes new requests."""
        return self.alive and not self.leaving and not (self.base and self.base.leaving)
