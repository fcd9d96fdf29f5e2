"""What the planner is told: devices with their memory, and models with their sizes and wishes. No torch here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from model_service.engine.workspace import Kind
from model_service.placement.sizes import Sizes


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, the CPU, or a named part of the CPU's memory (`cpu:0`). used_bytes: by others, before we come."""

    name: str
    kind: Kind
    total_bytes: int
    used_bytes: int = 0

    def budget(self, margin: float) -> int:
        """Return what models may take: all but what others use and a share that is left alone."""
        return max(0, self.total_bytes - self.used_bytes - int(margin * self.total_bytes))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to place. max_slots: sequences it may run at once.

    cpu_weights, cut_weights: what the format "auto" means on this CPU, whole and cut over parts of it.
    devices: the only ones it may go on, by name ("cpu" and "cuda" stand for all of their kind), or None for any.
    """

    name: str
    sizes: Sizes
    weights: str = "auto"
    cpu_weights: str = "int8"
    cut_weights: str = "bfloat16"
    devices: tuple[str, ...] | None = None
    max_slots: int = 16

    @property
    def least_slots(self) -> int:
        """A model that generates needs room for one sequence at least; a classifier keeps none."""
        return 0 if self.sizes.labels else 1

    def names(self, device: Device) -> bool:
        """Say whether `devices` names this one."""
        return self.devices is not None and any(
            name in (device.name, device.name.partition(":")[0]) for name in self.devices
        )

    def may_use(self, device: Device, *, allow_cpu: bool) -> bool:
        """Say whether it may go on a device; `allow_cpu` is for those that name none."""
        if self.weights == "int8" and device.kind == "gpu":
            return False
        return self.names(device) if self.devices is not None else device.kind == "gpu" or allow_cpu

    def format_on(self, kinds: Iterable[Kind], num_stages: int) -> str:
        """Return the number format on such devices; with a GPU among them "auto" is FP16, of which a CPU makes BF16."""
        if self.weights != "auto":
            return self.weights
        if "gpu" in kinds:
            return "float16"
        if self.sizes.labels:
            return "float32"
        return self.cpu_weights if num_stages == 1 else self.cut_weights


def natural(device: Device) -> tuple[bool, list[tuple[int, str]]]:
    """Sort key: GPUs before CPUs, `cuda:2` before `cuda:10`."""
    pieces = re.split(r"(\d+)", device.name)
    return device.kind == "cpu", [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
