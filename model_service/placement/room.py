"""What the pool asks the planner: may this model join those that are in memory, and where does it go? No torch here.

The planner keeps nothing: the pool says each time what stays, so that it can ask what would fit if others left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model_service.config import ModelSettings


class NoRoom(Exception):
    """A model does not fit beside those that stay; the message is a sentence with the numbers."""


class Placement(Protocol):
    """Where a model goes. A planner's own may say more, for the loader."""

    @property
    def device_bytes(self) -> Mapping[str, int]:
        """What it takes of each device: weights, cache and workspace."""

    @property
    def why(self) -> str:
        """One sentence: why there."""


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """A device's memory, as far as models may have it."""

    name: str
    total_bytes: int
    used_bytes: int


class Planner(Protocol):
    """Finds room for models."""

    def place(self, spec: ModelSettings, beside: Sequence[Placement]) -> Placement:
        """Place a model beside those that stay. Blocks. An adapter, which its base has counted, takes nothing.

        Raises NoRoom, or whatever makes it impossible to say how big the model is.
        """

    def devices(self, beside: Sequence[Placement]) -> Sequence[DeviceUse]:
        """Return every device, used by these models."""


@dataclass(frozen=True, slots=True)
class Anywhere:
    """A placement of which nothing is known."""

    device_bytes: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


class NoLimits:
    """A planner without devices: everything fits."""

    def place(self, spec: ModelSettings, beside: Sequence[Placement]) -> Placement:
        """Let it go wherever the loader puts it."""
        return Anywhere()

    def devices(self, beside: Sequence[Placement]) -> Sequence[DeviceUse]:
        """Return none."""
        return ()
