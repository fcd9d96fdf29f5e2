"""From the settings to what the planner is told: a model's sizes, and what training keeps for itself. No torch here."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_service.config import ModelSettings, ServiceSettings
from model_service.models.folder import (
    ADAPTER_CONFIG,
    CONFIG,
    find_folder,
    holds_adapter,
    read_config,
    read_shape,
)
from model_service.models.shape import Shape
from model_service.placement.devices import Device, Wanted, natural
from model_service.placement.sizes import Sizes
from model_service.placement.variants import known_shape

CPU_FORMATS = ("int8", "bfloat16")  # of "auto", on a CPU that is not at hand: whole, and cut
TRAINING_BYTES = {"gpu": 1 << 30, "cpu": 512 << 20}  # a run's libraries and the activations of its rows


@dataclass(frozen=True, slots=True)
class Machine:
    """What is planned for. kernels: whether int8 runs in ours.

    fastest: which format "auto" is on its CPU, by a model's shape: for a whole one, and for one that is cut.
    """

    devices: tuple[Device, ...]
    kernels: bool = False
    fastest: Callable[[Shape], tuple[str, str]] = lambda shape: CPU_FORMATS


class IsAdapter(Exception):
    """A hub id leads to an adapter, which runs on another model."""


class Wishes:
    """Says what a model takes. specs: all of the settings', among them the adapters that a model must have room for.

    trained: whether a model must have room for one adapter more, which training makes.
    """

    def __init__(
        self, machine: Machine, service: ServiceSettings, specs: Iterable[ModelSettings] = (), *, trained: bool = False
    ) -> None:
        self.machine, self._service, self._num_spare = machine, service, int(trained)
        self._hub: dict[tuple[str, str], tuple[Shape, int]] = {}
        self._bases = [bases_of(spec) for spec in specs if is_adapter(spec)]

    def wanted(self, spec: ModelSettings) -> Wanted:
        """Read its config.json, from the hub if it lies there; the published variants need none.

        Raises CheckpointError, or IsAdapter.
        """
        shape, labels = self._read(spec)
        kernels = self.machine.kernels and not shape.why_not_native and not labels
        num_adapters = sum(spec.name in bases or spec.source in bases for bases in self._bases)
        devices = None if spec.devices == "auto" else tuple(spec.devices)
        sizes = Sizes(shape, labels, kernels, 0 if labels else num_adapters + self._num_spare)
        made = Wanted(spec.name, sizes, spec.weights, *CPU_FORMATS, devices, self._service.max_num_seqs)
        if not self._measured(made):
            return made
        whole, cut = self.machine.fastest(shape)
        return replace(made, cpu_weights=whole, cut_weights=cut)

    def _read(self, spec: ModelSettings) -> tuple[Shape, int]:
        """Return a model's shape and number of labels; the hub is asked once."""
        if spec.task == "generate" and (shape := known_shape(spec.source)):
            return shape, 0
        if (spec.source, spec.task) in self._hub:
            return self._hub[spec.source, spec.task]
        folder = find_folder(spec.source, (CONFIG, ADAPTER_CONFIG))
        if (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file():
            raise IsAdapter
        config = read_config(folder)
        read = read_shape(config, spec.source), _num_labels(config) if spec.task == "classify" else 0
        if not Path(spec.source).expanduser().is_dir():  # what lies in a folder may change
            self._hub[spec.source, spec.task] = read
        return read

    def _measured(self, wanted: Wanted) -> bool:
        """Say whether it matters which format is the fastest on this CPU; finding out takes a second."""
        no_gpu = all(device.kind == "cpu" for device in self.machine.devices)
        allow_cpu = self._service.allow_cpu or no_gpu
        on_cpu = any(d.kind == "cpu" and wanted.may_use(d, allow_cpu=allow_cpu) for d in self.machine.devices)
        return on_cpu and wanted.weights == "auto" and not wanted.sizes.labels


def with_reserve(machine: Machine, reserve: int | str, models: Sequence[Wanted]) -> Machine:
    """Set memory aside on the device where training runs: the first GPU, else the CPU.

    "auto": enough to train an adapter for the smallest of the models, whose weights are float32 then.
    """
    generators = [model.sizes for model in models if not model.sizes.labels]
    if not machine.devices or reserve in (0, "none") or (reserve == "auto" and not generators):
        return machine
    first, *others = sorted(machine.devices, key=natural)
    if reserve == "auto":
        least = min(sizes.num_parameters for sizes in generators)
        reserve = TRAINING_BYTES[first.kind] + 4 * least
    held = replace(first, used_bytes=first.used_bytes + int(reserve))
    return replace(machine, devices=(held, *others))


def is_adapter(spec: ModelSettings) -> bool:
    """Whether a model of the settings is a folder with an adapter, which runs on another model."""
    return holds_adapter(Path(spec.source).expanduser())


def bases_of(spec: ModelSettings) -> frozenset[str]:
    """Return the names and sources an adapter gives for its base; none if it cannot be read, which its load says."""
    folder, found = Path(spec.source).expanduser(), set()
    for name, keys in ((ADAPTER_CONFIG, ("base_model_name_or_path",)), ("manifest.json", ("runs_on", "base"))):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            found.add(str(next((content[key] for key in keys if content.get(key)), None)))
        except (OSError, ValueError, AttributeError):
            continue
    return frozenset(found - {"None"})


def _num_labels(config: Mapping[str, Any]) -> int:
    return len(config.get("id2label") or {}) or int(config.get("num_labels") or 2)
