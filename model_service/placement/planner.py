"""The planner the pool asks (`room.Planner`): reads a model's sizes, knows this machine's devices, keeps no count.

    settings, config.json ──> wishes.py ──> Wanted ──┐
    inventory.py (once, at first use) ──> Machine ───┴──> plan.py ──> ModelPlan ──> load.py: stages, format, sequences

All the models of the settings are planned together first, so that each leaves room for the others. One that is asked
for goes where that plan has it, if that is free; else wherever it fits beside what stays. No torch is imported here.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from model_service.config import ModelSettings, ServiceSettings
from model_service.models.folder import CheckpointError
from model_service.placement.plan import ModelPlan, Plan, PlanRefused, Wanted, plan
from model_service.placement.room import DeviceUse, NoRoom, Placement
from model_service.placement.wishes import IsAdapter, Machine, Wishes, is_adapter, with_reserve

log = logging.getLogger(__name__)


class DevicePlanner:
    """See the module. specs: all models that may be asked for. machine: called once, in the first `place`.

    reserve: bytes to keep for training, "auto" for what the smallest model needs, "none".
    """

    def __init__(
        self,
        specs: Iterable[ModelSettings],
        service: ServiceSettings,
        machine: Callable[[], Machine],
        reserve: int | str = "none",
    ) -> None:
        self._specs, self._service, self._find_machine, self._reserve = tuple(specs), service, machine, reserve
        self._lock = threading.Lock()
        self._wishes: Wishes | None = None
        self._together: Plan | None = None

    def place(self, spec: ModelSettings, beside: Sequence[Placement]) -> ModelPlan:
        """Place a model beside those that stay. Blocks: reads files, and at first looks for GPUs.

        Raises NoRoom; PlanRefused where it never fits; CheckpointError for what cannot be read.
        """
        with self._lock:
            together, wishes = self._plan_together()
            if is_adapter(spec):
                return _on_its_base(spec)
            intended = next((m for m in together.models if spec in self._specs and m.name == spec.name), None)
            if intended and self._is_free(together, intended, beside):
                return intended
            try:
                alone = self._planned([wishes.wanted(spec)], beside)
            except IsAdapter:
                return _on_its_base(spec)
        if refused := alone.refused.get(spec.name):
            raise PlanRefused(refused.why) if refused.for_ever else NoRoom(refused.why)
        return alone.models[0]

    def devices(self, beside: Sequence[Placement]) -> Sequence[DeviceUse]:
        """Return every device, used by these models; none before the first model was placed."""
        there = self._wishes.machine.devices if self._wishes else ()
        return [
            DeviceUse(d.name, d.total_bytes, sum(placement.device_bytes.get(d.name, 0) for placement in beside))
            for d in there
        ]

    def together(self) -> Plan:
        """Plan all the models of the settings at once; what cannot be read is left out, and said by `place`. Blocks."""
        with self._lock:
            return self._plan_together()[0]

    def _plan_together(self) -> tuple[Plan, Wishes]:
        if self._together is None or self._wishes is None:
            self._wishes = self._wishes_on(self._find_machine())
            models: list[Wanted] = []
            for spec in self._specs:
                try:
                    models += [] if is_adapter(spec) else [self._wishes.wanted(spec)]
                except IsAdapter:
                    continue
                except CheckpointError as error:  # `place` raises it again, to whoever wants that model
                    log.debug("%s is planned when it is asked for: %s", spec.name, error)
            self._wishes = self._wishes_on(reserving(self._wishes.machine, self._reserve, models, self._service))
            self._together = self._planned(models, ())
        return self._together, self._wishes

    def _wishes_on(self, machine: Machine) -> Wishes:
        return Wishes(machine, self._service, self._specs, trained=self._reserve != "none")

    def _planned(self, models: Sequence[Wanted], beside: Sequence[Placement]) -> Plan:
        assert self._wishes is not None
        return plan_for(self._wishes.machine, models, self._service, beside)

    def _is_free(self, together: Plan, intended: ModelPlan, beside: Sequence[Placement]) -> bool:
        taken = {d.name: sum(placement.device_bytes.get(d.name, 0) for placement in beside) for d in together.devices}
        rooms = {d.name: d.budget(self._service.memory_margin) for d in together.devices}
        return all(taken[name] + size <= rooms[name] for name, size in intended.device_bytes.items())


def plan_for(
    machine: Machine, models: Sequence[Wanted], service: ServiceSettings, beside: Sequence[Placement] = ()
) -> Plan:
    """Plan as the settings say."""
    return plan(machine.devices, models, margin=service.memory_margin, allow_cpu=service.allow_cpu, kept=beside)


def reserving(machine: Machine, reserve: int | str, models: Sequence[Wanted], service: ServiceSettings) -> Machine:
    """Set memory aside for training; "auto" does without where a model would have no place for it."""
    held = with_reserve(machine, reserve, models)
    if reserve != "auto" or held == machine:
        return held
    if len(plan_for(held, models, service).refused) == len(plan_for(machine, models, service).refused):
        return held
    log.warning("no memory is kept for training: the models need all of it (training.reserve)")
    return machine


def _on_its_base(spec: ModelSettings) -> ModelPlan:
    return ModelPlan(spec.name, "auto", (), 0, {}, "It is an adapter, which its base has counted.")
