"""`punchline plan`: which layers of which model go where, here or on devices that are not there. No torch here.

    settings or --models ──> Wanted ──┐
    this machine or --simulate ───────┴──> plan.py ──> a table for people, or --json

A simulated GPU loses what a CUDA context takes, as a real one would; nothing is kept for training there.
"""

import asyncio
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from model_service.byte_sizes import gib, read_size
from model_service.config import CommonSettings, ModelSettings
from model_service.models.folder import CheckpointError
from model_service.placement.plan import Device, ModelPlan, Plan, PlanRefused, Wanted
from model_service.placement.planner import plan_for, reserving
from model_service.placement.variants import SOURCES
from model_service.placement.wishes import IsAdapter, Machine, Wishes, is_adapter
from model_service.probe import held_bytes

CONTEXT_BYTES = 512 << 20  # of a CUDA context, before anything is loaded
PAGE_WIDTH = 120  # of the table, where there is no terminal


class BadPlan(Exception):
    """What was typed cannot be planned; the message says what can."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was typed: devices that are not there, and names of models, each as one text; and how to print."""

    simulate: str | None = None
    models: str | None = None
    as_json: bool = False


def run(settings: CommonSettings, configured: Sequence[ModelSettings], request: Request) -> int:
    """Plan and print; returns the exit status: 0, 1 if a model has no place, 2 if what was typed makes no sense."""
    real = request.simulate is None
    try:
        specs = tuple(configured) if request.models is None else chosen(request.models, configured)
        there = real_machine(settings) if real else Machine(simulated(request.simulate or ""))
        made, why_not = planned(settings, there, specs, for_training=real)
    except (BadPlan, PlanRefused) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if request.as_json:
        sys.stdout.write(json.dumps(as_object(made, specs)) + "\n")
    else:
        Console(width=None if sys.stdout.isatty() else PAGE_WIDTH).print(table(made, specs), devices_table(made))
    sys.stderr.writelines(f"{line}\n" for line in why_not)
    return 1 if why_not else 0


def real_machine(settings: CommonSettings) -> Machine:
    """Look at this machine; what our own running service has loaded does not count as others'."""
    from model_service.placement.load import this_machine

    return this_machine(settings, asyncio.run(held_bytes(settings)))


def chosen(names: str, configured: Sequence[ModelSettings]) -> tuple[ModelSettings, ...]:
    """Find models by name, among those of the settings and the published variants. Raises BadPlan."""
    known = {name: ModelSettings(name=name, source=source) for name, source in SOURCES.items()}
    known |= {spec.name: spec for spec in configured}
    asked = [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), known, 1, 0.6)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise BadPlan(f"There is no model {name!r} to plan.{hint} Known: {', '.join(known)}.")
        if asked.count(name) > 1:
            raise BadPlan(f"--models names {name} more than once.")
    return tuple(known[name] for name in asked)


def simulated(text: str) -> tuple[Device, ...]:
    """Read `10GiB,10GiB,cpu:16GB`: GPUs in order, and what the CPU may use. Raises BadPlan."""
    devices: list[Device] = []
    for piece in (piece.strip() for piece in text.split(",")):
        is_cpu = piece.lower().startswith("cpu:")
        try:
            size = read_size(piece[4:] if is_cpu else piece)
        except ValueError as error:
            raise BadPlan(f"--simulate: {error}; a list is written 10GiB,10GiB,cpu:16GB.") from error
        if is_cpu and any(device.kind == "cpu" for device in devices):
            raise BadPlan("--simulate names the CPU twice; a machine has one, so give its memory once.")
        number = sum(device.kind == "gpu" for device in devices)
        devices.append(
            Device("cpu", "cpu", size) if is_cpu else Device(f"cuda:{number}", "gpu", size, min(size, CONTEXT_BYTES))
        )
    return tuple(devices)


def planned(
    settings: CommonSettings, there: Machine, specs: Sequence[ModelSettings], *, for_training: bool
) -> tuple[Plan, list[str]]:
    """Plan the models together; also returns a sentence for each that has no place."""
    allow_cpu = settings.service.allow_cpu or not for_training  # who simulates a CPU means it to be used
    service = settings.service.model_copy(update={"allow_cpu": allow_cpu})
    reserve = settings.training.reserve if for_training else "none"
    wishes = Wishes(there, service, specs, trained=reserve != "none")
    wanted: list[Wanted] = []
    unread: list[str] = []
    for spec in specs:
        try:
            wanted += [] if is_adapter(spec) else [wishes.wanted(spec)]
        except IsAdapter:
            continue  # its base has counted it
        except CheckpointError as error:
            unread.append(f"{spec.name}: {error}")
    made = plan_for(reserving(there, reserve, wanted, service), wanted, service)
    return made, [*unread, *(made.refused[spec.name].why for spec in specs if spec.name in made.refused)]


def as_object(made: Plan, specs: Sequence[ModelSettings]) -> dict[str, Any]:
    """Return what --json prints. Layers count from 0, both ends included; bytes are what the plan assigns."""
    used = made.used()
    return {
        "devices": [{"name": d.name, "total_bytes": d.total_bytes, "used_bytes": used[d.name]} for d in made.devices],
        "models": [
            {
                "name": model.name,
                "weights": model.weights,
                "layers": {stage.device: [stage.layers[0], stage.layers[-1]] for stage in model.stages},
                "bytes": dict(model.device_bytes),
            }
            for model in in_order(made, specs)
        ],
    }


def in_order(made: Plan, specs: Sequence[ModelSettings]) -> list[ModelPlan]:
    """Return the models that have a place, as they were named."""
    placed: Mapping[str, ModelPlan] = {model.name: model for model in made.models}
    return [placed[spec.name] for spec in specs if spec.name in placed]


def table(made: Plan, specs: Sequence[ModelSettings]) -> Table:
    """Return model x device -> layers and GiB, with why."""
    shown = Table("Model", "Weights", *(device.name for device in made.devices), "At once", "Why")
    for model in in_order(made, specs):
        cells = {
            stage.device: f"layers {stage.layers[0]}-{stage.layers[-1]}\n{gib(model.device_bytes[stage.device])}"
            for stage in model.stages
        }
        places = (cells.get(device.name, "") for device in made.devices)
        shown.add_row(model.name, model.weights, *places, str(model.slots or "-"), model.why)
    for name, refusal in made.refused.items():
        shown.add_row(name, "-", *("" for _ in made.devices), "-", f"no place: {refusal.why}")
    return shown


def devices_table(made: Plan) -> Table:
    """Return each device's memory and who has it."""
    used = made.used()
    shown = Table("Device", "Total", "Models", "Others and training", "Left")
    for device in made.devices:
        left = device.total_bytes - device.used_bytes - used[device.name]
        sizes = (device.total_bytes, used[device.name], device.used_bytes, left)
        shown.add_row(device.name, *map(gib, sizes))
    return shown
