"""Finds a place for one model in the memory that is free: whole on a device, or cut between layers. No torch here.

    free     cuda:0 ██████████░░   cuda:1 ████████████   cuda:2 ███░░░░░░░░░
    cut      layers 0-23           layers 24-47          (not needed)

A cut takes the fewest devices that hold the model, the roomiest of them, and makes the largest part as small as it can
be. With the CPU as the last device it is the other way round: GPUs take all they can, and the CPU the rest, if that is
the smaller half; else a model is faster whole on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_service.engine.engine_config import Stage
from model_service.engine.workspace import Kind
from model_service.placement.devices import Device, Wanted, natural


@dataclass(frozen=True, slots=True)
class Way:
    """A way to place a model: on one device or cut, on devices of these kinds."""

    kinds: tuple[Kind, ...]
    whole: bool


WAYS = (
    Way(("gpu",), True),
    Way(("gpu",), False),
    Way(("gpu", "cpu"), False),
    Way(("cpu",), True),
    Way(("cpu",), False),
)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a model goes, in which format, with room for how many sequences."""

    wanted: Wanted
    stages: tuple[Stage, ...]
    kinds: tuple[Kind, ...]  # of the stages
    weights: str
    slots: int
    way: Way

    def bytes_by_device(self) -> dict[str, int]:
        """Return what it takes on each device."""
        return {
            stage.device: self.wanted.sizes.total(stage.layers, self.weights, kind, self.slots)
            for stage, kind in zip(self.stages, self.kinds, strict=True)
        }

    def slot_by_device(self) -> dict[str, int]:
        """Return what one more sequence takes on each device."""
        return {
            stage.device: self.wanted.sizes.slot(stage.layers, self.weights, kind)
            for stage, kind in zip(self.stages, self.kinds, strict=True)
        }


def place(wanted: Wanted, way: Way, devices: Sequence[Device], free: Mapping[str, int], slots: int) -> Placed | None:
    """Return where a model goes this way with that many slots, or None if it does not fit.

    devices: those it may go on. free: bytes by device.
    """
    there = sorted((d for d in devices if d.kind in way.kinds), key=natural)
    if way.whole:
        return _whole(wanted, way, there, free, slots)
    if wanted.sizes.labels or {d.kind for d in there} != set(way.kinds):
        return None  # classifiers run whole
    if way.kinds == ("gpu", "cpu"):
        return _with_cpu(wanted, way, there, free, slots)
    return _cut(wanted, way, there, free, slots)


def _whole(wanted: Wanted, way: Way, there: list[Device], free: Mapping[str, int], slots: int) -> Placed | None:
    """Place it where least is left."""
    layers, weights = wanted.sizes.all_layers, wanted.format_on(way.kinds, 1)
    need = wanted.sizes.total(layers, weights, way.kinds[0], slots)
    fitting = [device for device in there if need <= free[device.name]]
    if not fitting:
        return None
    best = min(fitting, key=lambda device: free[device.name])  # the first of equals
    return Placed(wanted, (Stage(best.name, layers),), way.kinds, weights, slots, way)


def _cut(wanted: Wanted, way: Way, there: list[Device], free: Mapping[str, int], slots: int) -> Placed | None:
    """Cut it over the fewest devices, the largest part as small as can be."""
    roomiest = sorted(there, key=lambda device: -free[device.name])
    for count in range(2, len(there) + 1):
        for chosen in (sorted(roomiest[:count], key=natural), roomiest[:count]):
            rooms = [free[device.name] for device in chosen]
            if _filled(wanted, way, chosen, rooms, slots) is None:
                continue
            low, high = 0, max(rooms)  # of the largest part: too little, enough
            while high - low > 1:
                middle = (low + high) // 2
                fits = _filled(wanted, way, chosen, [min(room, middle) for room in rooms], slots) is not None
                low, high = (low, middle) if fits else (middle, high)
            return _filled(wanted, way, chosen, [min(room, high) for room in rooms], slots)
    return None


def _with_cpu(wanted: Wanted, way: Way, there: list[Device], free: Mapping[str, int], slots: int) -> Placed | None:
    """Fill the GPUs and leave the CPU the rest, if that is at most half of the layers."""
    gpus = sorted((d for d in there if d.kind == "gpu"), key=lambda device: -free[device.name])
    cpu = max((d for d in there if d.kind == "cpu"), key=lambda device: free[device.name])
    for count in range(len(gpus), 0, -1):
        chosen = [*sorted(gpus[:count], key=natural), cpu]
        found = _filled(wanted, way, chosen, [free[device.name] for device in chosen], slots)
        if found and 2 * len(found.stages[-1].layers) <= wanted.sizes.shape.n_layer:
            return found
    return None


def _filled(wanted: Wanted, way: Way, chosen: Sequence[Device], rooms: Sequence[int], slots: int) -> Placed | None:
    """Give each device in turn as many layers as its room holds; None if that leaves some over, or a device none."""
    kinds = tuple(device.kind for device in chosen)
    weights, sizes, end = wanted.format_on(kinds, len(chosen)), wanted.sizes, wanted.sizes.shape.n_layer
    stages, start = [], 0
    for place, (device, room) in enumerate(zip(chosen, rooms, strict=True)):
        num_after = len(chosen) - place - 1
        most = end - num_after if num_after else end
        stop = most
        while stop > start and sizes.total(range(start, stop), weights, device.kind, slots) > room:
            stop -= 1
        if stop <= start or (not num_after and stop < end):
            return None
        stages.append(Stage(device.name, range(start, stop)))
        start = stop
    return Placed(wanted, tuple(stages), kinds, weights, slots, way)
