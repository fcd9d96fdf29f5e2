"""How full the devices' memory is, for people: worked out, in words, and as a small picture for an embed.

The drawing is in `bot.ui.memory_chart`, which imports matplotlib; that is loaded when the first picture is asked for
and takes half a second, so `picture` belongs in a thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALT_LIMIT = 1024  # characters Discord takes
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True)
class Device:
    """A device's memory. used_bytes counts everything on it, also what no model here accounts for."""

    name: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """A model and what it takes of each device, by the device's name. note: what else to say of it."""

    model: str
    device_bytes: Mapping[str, int]
    note: str = ""

    @property
    def words(self) -> str:
        """The note; without one its size in all."""
        return self.note or size(sum(self.device_bytes.values()))


@dataclass(frozen=True, slots=True)
class Bar:
    """One device, from left to right: its models, what else is used, what is free."""

    device: Device
    parts: tuple[tuple[int, int], ...]  # (place of the model in the list, bytes)
    other_bytes: int
    free_bytes: int

    @property
    def words(self) -> str:
        """How much is left."""
        return f"{size(self.free_bytes)} free of {size(self.device.total_bytes)}"


def bars(devices: Sequence[Device], shares: Sequence[Share]) -> list[Bar]:
    """Work out what lies where; devices without memory are left out."""
    found = []
    for device in devices:
        if device.total_bytes <= 0:
            continue
        held = [(place, share.device_bytes.get(device.name, 0)) for place, share in enumerate(shares)]
        parts = tuple((place, taken) for place, taken in held if taken > 0)
        models_bytes = sum(taken for _, taken in parts)
        used_bytes = max(device.used_bytes, models_bytes)
        found.append(Bar(device, parts, used_bytes - models_bytes, max(0, device.total_bytes - used_bytes)))
    return found


def describe(devices: Sequence[Device], shares: Sequence[Share]) -> str:
    """Say in words what the picture shows, for those who do not see it."""
    sentences = ["Memory of the devices."]
    for bar in bars(devices, shares):
        there = [f"{shares[place].model} {size(taken)}" for place, taken in bar.parts]
        there += [f"other {size(bar.other_bytes)}"] if bar.other_bytes else []
        sentences.append(f"{bar.device.name}, {bar.words}: {', '.join(there) or 'empty'}.")
    told = " ".join(sentences)
    return told if len(told) <= ALT_LIMIT else f"{told[: ALT_LIMIT - 1]}…"


def picture(devices: Sequence[Device], shares: Sequence[Share]) -> bytes:
    """Draw the PNG. Blocks for some milliseconds, the first time for half a second."""
    from bot.ui.memory_chart import png

    return png(bars(devices, shares), shares)


def size(size_bytes: int) -> str:
    """Write a size in GiB, or in MiB where that would be a tenth and less."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.1f} GiB"
    if size_bytes >= GIB / 10:
        return f"{size_bytes / GIB:.2f} GiB"
    return "less than 1 MiB" if 0 < size_bytes < MIB else f"{size_bytes / MIB:.0f} MiB"
