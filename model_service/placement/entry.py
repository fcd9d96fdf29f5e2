"""One name in the pool: what it stands for, whether that is in memory, and why not if it is not. No torch here.

unloaded ──> loading ──> ready ──> unloaded         left to make room, loads again when asked
                └──────> failed ──> loading         after a pause, if it may go better then
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model_service.config import ModelSettings
from model_service.errors import ModelFailed
from model_service.placement.failures import Backoff
from model_service.placement.room import Placement
from model_service.placement.slot import Slot

DEAD = "its engine has stopped; the log says why."
State = Literal["unloaded", "loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Held:
    """A model as the pool sees it right now."""

    id: str
    task: Literal["generate", "classify"]
    state: State
    created: int
    tuned: bool
    pinned: bool
    error: str | None = None
    why: str = ""  # where it is, or why it is not there
    progress: float | None = None  # 0 to 1, while it loads
    device_map: dict[str, str] = field(default_factory=dict)
    device_bytes: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    weights: str = ""


class Entry:
    """A name, and what is known of its model."""

    def __init__(self, spec: ModelSettings) -> None:
        self.spec = spec
        self.slot: Slot | None = None
        self.error: str | None = None  # why the last load failed
        self.transient = False  # that may be otherwise next time
        self.revive = False  # nobody has to ask for the next time
        self.backoff = Backoff()
        self.folder: Path | None = None  # where its files lie, once that is known
        self.is_adapter = False  # as far as is known
        self.why = "It is loaded when somebody asks for it."
        self.created = int(time.time())

    def put(self, slot: Slot) -> None:
        """Let a loaded model answer under this name."""
        self.slot, self.spec, self.folder = slot, slot.spec, slot.folder
        self.is_adapter = slot.base is not None
        self.error, self.revive = None, False
        self.why = f"It runs on {slot.base.spec.name}." if slot.base else slot.placement.why

    def unload(self, why: str) -> None:
        """Forget the model; it may be loaded again."""
        self.slot, self.error, self.why = None, None, why

    def fail(self, reason: str, *, transient: bool, pause: bool = True) -> None:
        """Keep why a load failed. transient: it may go better, after a pause unless there is none."""
        self.error, self.transient, self.revive, self.why = reason, transient, False, reason
        if pause:
            self.backoff.failed()

    @property
    def pinned(self) -> bool:
        """Whether it never leaves to make room."""
        return self.spec.pinned

    @property
    def refusal(self) -> ModelFailed | None:
        """What to tell those who ask while it is not to be loaded: it failed for good, or a moment ago."""
        if self.error is None or (self.transient and not self.backoff.remaining_s):
            return None
        return ModelFailed(self.spec.name, self.error, self.backoff.remaining_s if self.transient else None)

    def state(self, loading: bool) -> State:
        """Say how it stands. loading: whether a load of it is under way or waits."""
        if self.slot is not None and self.slot.alive:
            return "ready"
        if loading:
            return "loading"
        return "failed" if self.error or self.slot is not None else "unloaded"

    def held(self, progress: float | None, coming: Placement | None = None) -> Held:
        """Describe it. progress: of its load; None if there is none. coming: where that puts it."""
        loaded = self.slot.loaded if self.slot else None
        placement = self.slot.placement if self.slot and not self.slot.base else coming
        state = self.state(progress is not None)
        return Held(
            id=self.spec.name,
            task=self.spec.task,
            state=state,
            created=self.created,
            tuned=self.spec.name.startswith("ft:"),
            pinned=self.pinned,
            error=self.error or DEAD if state == "failed" else None,
            why=self.why,
            progress=progress if state == "loading" else None,
            device_map=loaded.device_map if loaded else {},
            device_bytes=dict(placement.device_bytes) if placement else {},
            size_bytes=loaded.size_bytes if loaded else 0,
            weights=loaded.weights if loaded else self.spec.weights,
        )
