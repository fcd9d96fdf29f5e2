"""Decides which layers of which model go on which device. Pure arithmetic over bytes: no torch, no clock, no files.

    whole on a GPU  >  cut over GPUs  >  cut, the smaller half on the CPU  >  whole on the CPU  >  cut over parts of
    the CPU's memory  >  cut over all there is

Each model goes the first of these ways that it could go if it were alone (a CPU only where that is allowed). The
biggest is placed first: whole where it fits tightest, or cut over the fewest devices and balanced (cuts.py). At first
with room for all the sequences that may run at once; if not every model fits then, with fewer, down to one; only then a
model may go a later way. What is left over in the end is shared out as more sequences.

The same devices and models give the same plan, in whatever order they are named. What is `kept` stays as it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from model_service.engine.engine_config import Stage
from model_service.placement.cuts import Placed, Way, place
from model_service.placement.devices import Device, Wanted
from model_service.placement.reasons import Case, Taken, why_never, why_not_now, why_there

__all__ = ["Device", "ModelPlan", "Plan", "PlanRefused", "Refusal", "Stage", "Wanted", "plan"]


class PlanRefused(Exception):
    """A model cannot go on these devices even if they are empty; the message says why, with the numbers."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model has no place, as a sentence. for_ever: also on empty devices."""

    why: str
    for_ever: bool


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Where a model goes. stages: in the order of its layers; none for an adapter, which its base has counted."""

    name: str
    weights: str  # number format
    stages: tuple[Stage, ...]
    slots: int  # sequences at once; 0 for a classifier
    device_bytes: Mapping[str, int]  # weights, cache and workspace
    why: str  # one sentence


@dataclass(frozen=True, slots=True)
class Plan:
    """Models with a place, the biggest first, and those without, by name."""

    devices: tuple[Device, ...]
    models: tuple[ModelPlan, ...]
    refused: Mapping[str, Refusal] = field(default_factory=dict)

    def used(self) -> dict[str, int]:
        """Return the bytes that are given away, by device."""
        return {d.name: sum(m.device_bytes.get(d.name, 0) for m in self.models) for d in self.devices}


def plan(
    devices: Iterable[Device],
    models: Iterable[Wanted],
    *,
    margin: float = 0.05,
    allow_cpu: bool = False,
    kept: Iterable[Taken] = (),
) -> Plan:
    """Place models beside those that are kept. margin: the share of each device's memory that is left alone.

    allow_cpu: for models that do not name the CPU; without any GPU it is always allowed.
    """
    wanted = sorted(models, key=lambda w: (-w.sizes.weights(w.sizes.all_layers, "float16"), w.name))
    case = Case.of(devices, wanted, kept, margin, allow_cpu=allow_cpu)
    placed = _best(case, wanted)
    left = _less(case.free, placed)
    placed_plans = tuple(_described(case, p) for p in _share_out(placed, left))
    without = [w for w in wanted if w.name not in {p.wanted.name for p in placed}]
    return Plan(case.devices, placed_plans, {w.name: _refusal(case, w, left) for w in without})


def _best(case: Case, wanted: Sequence[Wanted]) -> list[Placed]:
    """Place as the module says; what has no place in the end is left out."""
    own = {name: ways[:1] for name, ways in case.ways.items()}
    for level in _levels(max((w.max_slots for w in wanted), default=1)):
        placed = _packed(case, wanted, own, level)
        if len(placed) == len(wanted):
            return placed
    return _packed(case, wanted, case.ways, 1)


def _levels(most: int) -> Iterator[int]:
    """Yield fewer and fewer sequences, down to one."""
    while most > 1:
        yield most
        most = most * 3 // 4
    yield 1


def _packed(case: Case, wanted: Sequence[Wanted], ways: Mapping[str, Sequence[Way]], level: int) -> list[Placed]:
    """Place one after the other, with room for at most `level` sequences each; those that do not fit are left out."""
    free, placed = dict(case.free), []
    for one in wanted:
        slots = max(one.least_slots, min(level, one.max_slots)) if one.least_slots else 0
        tries = (place(one, way, case.allowed[one.name], free, slots) for way in ways[one.name])
        if found := next((p for p in tries if p), None):
            placed.append(found)
            free = _less(free, [found])
    return placed


def _share_out(placed: Sequence[Placed], left: Mapping[str, int]) -> list[Placed]:
    """Let models run more sequences while memory is left, those with the fewest first."""
    grown = {p.wanted.name: p for p in placed}
    growing = {name for name, p in grown.items() if p.slots < p.wanted.max_slots and p.slots}
    while growing:
        name = min(growing, key=lambda name: (grown[name].slots, name))
        one, more = grown[name], replace(grown[name], slots=grown[name].slots + 1)
        after = _less(_less(left, [more]), [one], sign=-1)
        if min(after.values()) < 0:
            growing.remove(name)
            continue
        left, grown[name] = after, more
        if more.slots >= more.wanted.max_slots:
            growing.remove(name)
    return list(grown.values())


def _less(free: Mapping[str, int], placed: Iterable[Placed], sign: int = 1) -> dict[str, int]:
    """Return what is left of the free bytes beside models; with sign -1, what there is when they are gone."""
    left = dict(free)
    for one in placed:
        for device, size in one.bytes_by_device().items():
            left[device] -= sign * size
    return left


def _described(case: Case, placed: Placed) -> ModelPlan:
    return ModelPlan(
        placed.wanted.name,
        placed.weights,
        placed.stages,
        placed.slots,
        placed.bytes_by_device(),
        why_there(case, placed),
    )


def _refusal(case: Case, wanted: Wanted, left: Mapping[str, int]) -> Refusal:
    if not case.ways[wanted.name]:
        return Refusal(why_never(case, wanted), for_ever=True)
    return Refusal(why_not_now(case, wanted, left), for_ever=False)
