"""Chooses which models leave so that another fits. No torch here, and nothing happens here: it only asks the planner.

free room            nobody leaves
idle, least recent   leave first
busy, least recent   leave when their requests have ended; they take no new ones until then
pinned               never
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model_service.config import ModelSettings
from model_service.placement.room import NoRoom, Placement, Planner


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, by the caller's number."""

    number: int
    placement: Placement
    last_used: float
    busy: bool = False
    pinned: bool = False


def fits(planner: Planner, spec: ModelSettings, staying: Sequence[Placement]) -> bool:
    """Whether a model fits beside these. Blocks."""
    try:
        planner.place(spec, staying)
    except NoRoom:
        return False
    return True


def choose(
    planner: Planner, spec: ModelSettings, residents: Sequence[Resident], own: Sequence[Placement] = ()
) -> list[int]:
    """Return the numbers of those that leave: as few recent ones as possible, idle before busy. Blocks.

    own: what the model replaces, which stays until it is there. Raises NoRoom if it does not fit even beside that and
    the pinned ones alone.
    """
    movable = sorted((r for r in residents if not r.pinned), key=lambda r: (r.busy, r.last_used))
    pinned = [*own, *(r.placement for r in residents if r.pinned)]
    planner.place(spec, pinned)
    leaving = len(movable)
    for count in range(len(movable)):
        if fits(planner, spec, pinned + [r.placement for r in movable[count:]]):
            leaving = count
            break
    chosen, staying = movable[:leaving], pinned + [r.placement for r in movable[leaving:]]
    for resident in reversed(chosen):  # one on another device, say, makes no room
        if fits(planner, spec, [*staying, resident.placement]):
            chosen.remove(resident)
            staying.append(resident.placement)
    return [resident.number for resident in chosen]
