"""Finds a place for one model in the memory that is free: whole on a device, or cut between layers. No torch here.

    free     cuda:0 ██████████░░   cuda:1 ████████████   cuda:2 ███░░░░░░░░░
    cut      layers 0-23           layers 24-47          (not needed)

A cut takes the fewest devices that hold the model, the roomiest of them, and makes the largest part as small as it can
be. With the CPU as the last device it is the other way round: GPUs take all they can, and the CPU the rest, if that is
the smaller half; else a model is faster whole on the CPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from model_service.engine.engine_config import Stage
from model_service.engine.workspace import Kind
from model_service.placement.devices import Device, Wanted, natural

EVEN_BYTES = 1 << 16  # parts are balanced to this
FEW_DEVICES = 4


@dataclass(frozen=True, slots=True)
class Way:
    """A way to place a model: on one device or cut, on devices of these kinds. cpu_share: of the layers, at most."""

    kinds: tuple[Kind, ...]
    whole: bool = False
    cpu_share: float = 1.0


WAYS = (
    ON_A_GPU := Way(("gpu",), whole=True),
    OVER_GPUS := Way(("gpu",)),
    REST_ON_CPU := Way(("gpu", "cpu"), cpu_share=0.5),
    ON_THE_CPU := Way(("cpu",), whole=True),
    OVER_CPUS := Way(("cpu",)),
    MOST_ON_CPU := Way(("gpu", "cpu")),
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


def place(wanted: Wanted, way: Way, devices: Sequence[Device], free: Mapping[str, int], slots: int) -> Placed | None:
    """Return where a model goes this way with that many slots, or None if it does not fit.

    devices: those it may go on. free: bytes by device.
    """
    there = sorted((d for d in devices if d.kind in way.kinds), key=natural)
    if way.whole:
        return _whole(wanted, way, there, free, slots)
    if wanted.sizes.labels or {d.kind for d in there} != set(way.kinds):
        return None  # classifiers run whole
    if len(way.kinds) > 1:
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
    for chosen in _choices(there, free, exhaustive=slots == wanted.least_slots):
        rooms = [free[device.name] for device in chosen]
        best = _filled(wanted, way, chosen, rooms, slots)
        if best is None:
            continue
        low, high = 0, max(rooms)  # of the largest part: too little, enough
        while high - low > EVEN_BYTES:
            middle = (low + high) // 2
            found = _filled(wanted, way, chosen, [min(room, middle) for room in rooms], slots)
            low, high, best = (middle, high, best) if found is None else (low, middle, found)
        return best
    return None


def _choices(there: list[Device], free: Mapping[str, int], *, exhaustive: bool) -> Iterator[Sequence[Device]]:
    """Yield devices to cut over, in the order of their layers: the fewest first, the roomiest, as they are numbered.

    exhaustive: then all others too, for parts differ in what they need besides layers; not for more than a few devices.
    """
    roomiest = sorted(there, key=lambda device: -free[device.name])
    for count in range(2, len(there) + 1):
        yield sorted(roomiest[:count], key=natural)
        yield roomiest[:count]
    if exhaustive and len(there) <= FEW_DEVICES:
        for count in range(2, len(there) + 1):
            yield from permutations(there, count)


def _with_cpu(wanted: Wanted, way: Way, there: list[Device], free: Mapping[str, int], slots: int) -> Placed | None:
    """Fill the GPUs and leave the CPU the rest, if that is not more than its share."""
    gpus = sorted((d for d in there if d.kind == "gpu"), key=lambda device: -free[device.name])
    cpus = sorted((d for d in there if d.kind == "cpu"), key=lambda device: -free[device.name])
    for num_cpus in range(1, len(cpus) + 1):
        for num_gpus in range(len(gpus), 0, -1):
            chosen = [*sorted(gpus[:num_gpus], key=natural), *sorted(cpus[:num_cpus], key=natural)]
            found = _filled(wanted, way, chosen, [free[device.name] for device in chosen], slots)
            on_cpu = sum(len(s.layers) for s in found.stages[num_gpus:]) if found else 0
            if found and on_cpu <= way.cpu_share * wanted.sizes.shape.n_layer:
                return found
    return None


def _filled(wanted: Wanted, way: Way, chosen: Sequence[Device], rooms: Sequence[int], slots: int) -> Placed | None:
    """Give each device in turn as many layers as its room holds; None if that leaves some over, or a device none."""
    kinds = tuple(device.kind for device in chosen)
    weights, sizes, end = wanted.format_on(kinds, len(chosen)), wanted.sizes, wanted.sizes.shape.n_layer
    stages, start = [], 0
    for after, device, room in zip(range(len(chosen) - 1, -1, -1), chosen, rooms, strict=True):
        stop = end - after
        if stop > start and after:
            one, two = (sizes.total(range(start, start + n), weights, device.kind, slots) for n in (1, 2))
            stop = min(stop, start + 1 + (room - one) // (two - one))  # every further layer takes the same
        elif stop > start and sizes.total(range(start, stop), weights, device.kind, slots) > room:
            return None
        if stop <= start:
            return None
        stages.append(Stage(device.name, range(start, stop)))
        start = stop
    return Placed(wanted, tuple(stages), kinds, weights, slots, way)
