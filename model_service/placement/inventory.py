"""The devices of this machine with their memory, and how much of it others use. Imports torch when it is called.

    a GPU     what its driver says; our own CUDA context counts as somebody else's
    the CPU   the machine's memory, or the control group's where that is less (a container)
    cpu:0 …   parts of the CPU's memory that `service.device_memory` names; they act as devices of their own

A size in `service.device_memory` for a GPU or the CPU is the most that models may take of it.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model_service.models.shape import Shape
from model_service.placement.devices import Device
from model_service.placement.plan import PlanRefused
from model_service.placement.wishes import Machine

CUT_FORMATS = ("bfloat16", "float32")  # our int8 kernels run whole models


def machine(caps: Mapping[str, int], ours: Mapping[str, int] | None = None) -> Machine:
    """Look at this machine. Blocks for as long as torch takes to import.

    caps: bytes by device. ours: bytes that our own running service has of them, which are not others'.
    Raises PlanRefused for a cap on a GPU that is not there.
    """
    from model_service.engine.fastest import fastest_weights
    from model_service.native.library import why_not

    def fastest(shape: Shape) -> tuple[str, str]:
        cut = fastest_weights(shape, CUT_FORMATS) if len(devices) > 1 else CUT_FORMATS[0]
        return fastest_weights(shape), cut

    devices = capped(without((*gpus(), cpu()), ours or {}), caps)
    return Machine(devices, not why_not(), fastest)


def gpus() -> list[Device]:
    """Return the CUDA devices."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Device(f"cuda:{index}", "gpu", total, total - free))
    return found


def cpu(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> Device:
    """Return the CPU with the memory this process may use. proc, groups: where Linux tells."""
    kib = _table(proc / "meminfo")
    total = kib.get("MemTotal", 0) << 10 or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not on Linux
    available = kib["MemAvailable"] << 10 if "MemAvailable" in kib else total
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most = _number(groups / limit)
        if most is not None and most < total:
            stat = _table((groups / used).with_name("memory.stat"))
            left = most - (_number(groups / used) or 0) + stat.get(cached, 0)  # the system takes that back when needed
            total, available = most, max(0, min(available, left))
    return Device("cpu", "cpu", total, max(0, total - available))


def without(devices: tuple[Device, ...], ours: Mapping[str, int]) -> tuple[Device, ...]:
    """Leave what is ours out of what others use. ours: by device; that of parts of the CPU is the CPU's."""
    taken: dict[str, int] = {}
    for name, size in ours.items():
        whole = "cpu" if name.startswith("cpu:") else name
        taken[whole] = taken.get(whole, 0) + size
    return tuple(replace(d, used_bytes=max(0, d.used_bytes - taken.get(d.name, 0))) for d in devices)


def capped(devices: tuple[Device, ...], caps: Mapping[str, int]) -> tuple[Device, ...]:
    """Let models take at most so much of a device; parts of the CPU that are named take its place."""
    unknown = [name for name in caps if not name.startswith("cpu") and name not in {d.name for d in devices}]
    if unknown:
        there = ", ".join(device.name for device in devices)
        raise PlanRefused(f"service.device_memory names {', '.join(unknown)}; the devices here are {there}.")
    if "cpu" in caps and any(name.startswith("cpu:") for name in caps):
        raise PlanRefused("service.device_memory names the CPU whole and in parts; leave one of the two out.")
    parts = tuple(Device(name, "cpu", size) for name, size in caps.items() if name.startswith("cpu:"))
    kept = (device for device in devices if device.kind == "gpu" or not parts)
    return (*(_capped(device, caps.get(device.name)) for device in kept), *parts)


def _capped(device: Device, cap: int | None) -> Device:
    if cap is None or cap >= device.total_bytes:
        return device
    used_bytes = max(0, device.used_bytes - (device.total_bytes - cap))
    return Device(device.name, device.kind, cap, used_bytes)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _table(path: Path) -> dict[str, int]:
    """Read lines like `MemTotal:  16777216 kB`; none where there is no such file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
