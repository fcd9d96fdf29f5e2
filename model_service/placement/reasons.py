"""What can be done with a model on these devices at all, and a sentence for each outcome. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from model_service.byte_sizes import gib
from model_service.placement.cuts import ON_A_GPU, ON_THE_CPU, WAYS, Placed, Way, place
from model_service.placement.devices import Device, Wanted, natural


class Taken(Protocol):
    """A model that is there already."""

    @property
    def device_bytes(self) -> Mapping[str, int]:
        """What it takes of each device."""


@dataclass(frozen=True, slots=True)
class Case:
    """Devices in their order, and their room in bytes: empty (of our models), and free beside those that are kept.

    allowed: the devices each model may go on, by its name. ways: how it may go, from the first way it could go alone;
    none if it never fits.
    """

    devices: tuple[Device, ...]
    empty: Mapping[str, int]
    free: Mapping[str, int]
    allowed: Mapping[str, Sequence[Device]]
    ways: Mapping[str, Sequence[Way]]
    may_allow_cpu: bool  # the CPU is there, and left out by the settings

    @classmethod
    def of(
        cls,
        devices: Iterable[Device],
        models: Sequence[Wanted],
        kept: Iterable[Taken],
        margin: float,
        *,
        allow_cpu: bool,
    ) -> "Case":
        """See `plan`."""
        there, kept = tuple(sorted(devices, key=natural)), tuple(kept)
        assert len({device.name for device in there}) == len(there)
        assert len({w.name for w in models}) == len(models)
        empty = {device.name: device.budget(margin) for device in there}
        free = {name: room - sum(model.device_bytes.get(name, 0) for model in kept) for name, room in empty.items()}
        kinds = {device.kind for device in there}
        allow_cpu = allow_cpu or kinds == {"cpu"}
        allowed = {w.name: [d for d in there if w.may_use(d, allow_cpu=allow_cpu)] for w in models}
        ways = {w.name: _ways(w, allowed[w.name], empty) for w in models}
        return cls(there, empty, free, allowed, ways, "cpu" in kinds and not allow_cpu)


def _ways(wanted: Wanted, allowed: Sequence[Device], empty: Mapping[str, int]) -> tuple[Way, ...]:
    possible = (i for i, way in enumerate(WAYS) if place(wanted, way, allowed, empty, wanted.least_slots))
    first = next(possible, None)
    return () if first is None else WAYS[first:]


def why_there(case: Case, placed: Placed) -> str:
    """Say why a model goes where it goes."""
    wanted, names = placed.wanted, [stage.device for stage in placed.stages]
    if not placed.slots:
        room = "it classifies, and keeps nothing between texts"
    elif placed.slots == wanted.max_slots:
        room = f"room for all {_sequences(placed.slots)} that may run at once"
    else:
        room = f"room for {placed.slots} of {_sequences(wanted.max_slots)} at once"
    return f"{_place(case, placed, names)}; {room}."


def _place(case: Case, placed: Placed, names: list[str]) -> str:
    wanted, allowed = placed.wanted, case.allowed[placed.wanted.name]
    alone = placed.way == case.ways[wanted.name][0]
    if placed.way.whole and len(allowed) == 1:
        return f"Fits whole on {names[0]}, the only device {'it may use' if wanted.devices else 'there is for it'}"
    if placed.way == ON_A_GPU:
        more = sum(device.kind == "gpu" for device in allowed) > 1
        return f"Fits whole on {names[0]}{', the fullest GPU that has room for it' if more else ''}"
    if placed.way == ON_THE_CPU and any(device.kind == "gpu" for device in allowed):
        return f"No room on the GPUs{'' if alone else ' beside the others'}, so it runs whole on {names[0]}"
    if placed.way.whole:
        return f"Fits whole on {names[0]}, the fullest that has room for it"
    kind = placed.way.kinds[0]
    alike = [device for device in allowed if device.kind == kind]
    need, most = _whole_bytes(wanted, alike[0]), max((case.empty if alone else case.free)[d.name] for d in alike)
    one = "GPU" if kind == "gpu" else "device"
    what = f"Needs {gib(need)} in one piece, with one sequence, and no {one} has more than {gib(most)}"
    if need <= most:
        what = f"Needs {gib(need)} in one piece, with one sequence, which no {one} has left beside the others"
    if len(placed.way.kinds) > 1:
        return f"{what}: the GPUs take all they can, {names[-1]} the rest"
    return f"{what}: its layers go on {_listed(names)}, balanced by bytes"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def why_never(case: Case, wanted: Wanted) -> str:
    """Say why a model cannot run on these devices even if they are empty."""
    known = ", ".join(device.name for device in case.devices) or "none"
    names = {name for device in case.devices for name in _names(device)}
    missing = [name for name in wanted.devices or () if name not in names]
    if missing:
        return f"{wanted.name} is to go on {', '.join(missing)}; the devices here are {known}."
    allowed = case.allowed[wanted.name]
    if not allowed and wanted.weights == "int8":
        return f'{wanted.name} has weights = "int8", which run on a CPU only: set devices = ["cpu"], or other weights.'
    if not allowed:
        return f"{wanted.name} has no device to go on: {known}."
    return f"{wanted.name} does not fit: {_numbers(case, wanted, case.empty)}{_hint(case, wanted)}"


def why_not_now(case: Case, wanted: Wanted, left: Mapping[str, int]) -> str:
    """Say why a model that would fit alone does not fit beside the others."""
    return f"{wanted.name} does not fit beside the others: {_numbers(case, wanted, left)}{_hint(case, wanted)}"


def _numbers(case: Case, wanted: Wanted, free: Mapping[str, int]) -> str:
    allowed = case.allowed[wanted.name]
    device = min(allowed, key=lambda device: _whole_bytes(wanted, device))
    sizes, layers, weights = wanted.sizes, wanted.sizes.all_layers, wanted.format_on((device.kind,), 1)
    pieces = [f"{weights} weights {gib(sizes.weights(layers, weights))}"]
    if wanted.least_slots:
        pieces.append(f"one sequence {gib(sizes.slot(layers, weights, device.kind))}")
    pieces.append(f"working memory {gib(sizes.workspace(layers, weights, device.kind, wanted.least_slots))}")
    need, rooms = _whole_bytes(wanted, device), [f"{d.name} {gib(free[d.name])}" for d in allowed]
    text = f"it needs {gib(need)} ({', '.join(pieces)}), and there is free: {', '.join(rooms)}."
    if len(allowed) > 1 and sum(free[d.name] for d in allowed) >= need:
        text += " That is enough in all, but not in parts: layers stay whole, and each part needs working memory."
    return text


def _hint(case: Case, wanted: Wanted) -> str:
    if wanted.devices is not None:
        return ' Its devices are set; "auto" would look at all of them.' if len(case.devices) > 1 else ""
    if case.may_allow_cpu:
        return " With service.allow_cpu = true what is left over would go on the CPU, where it is slower."
    return ""


def _whole_bytes(wanted: Wanted, device: Device) -> int:
    weights = wanted.format_on((device.kind,), 1)
    return wanted.sizes.total(wanted.sizes.all_layers, weights, device.kind, wanted.least_slots)


def _names(device: Device) -> tuple[str, str]:
    return device.name, device.name.partition(":")[0]


def _sequences(count: int) -> str:
    return f"{count} sequence{'' if count == 1 else 's'}"
