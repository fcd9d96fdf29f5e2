"""The planner and the loader of the real service: settings in, a model on its devices out. Both block, in a thread.

Nothing here imports torch until a model is loaded, so that the service answers `/health/live` at once.
"""

import gc
import os
from collections.abc import Iterable, Mapping

from model_service.config import CommonSettings, ModelSettings, ServiceSettings
from model_service.models.folder import holds_adapter
from model_service.placement.adapted import AdapterFolder, adapter_folder
from model_service.placement.inventory import machine
from model_service.placement.loaded import Loaded
from model_service.placement.loads import Loader, Progress
from model_service.placement.plan import ModelPlan
from model_service.placement.planner import DevicePlanner
from model_service.placement.room import Placement
from model_service.placement.wishes import Machine


def planner(settings: CommonSettings, specs: Iterable[ModelSettings]) -> DevicePlanner:
    """Return what finds room on this machine. specs: every model that may be asked for."""

    return DevicePlanner(specs, settings.service, lambda: this_machine(settings), settings.training.reserve)


def this_machine(settings: CommonSettings, ours: Mapping[str, int] | None = None) -> Machine:
    """Look at this machine as the service does. ours: see `inventory.machine`. Blocks; raises PlanRefused."""
    share_cores()
    if settings.service.threads is not None:
        import torch

        torch.set_num_threads(settings.service.threads)  # before formats are measured
    return machine(settings.service.device_memory, ours)


def loader(service: ServiceSettings) -> Loader:
    """Return the function that loads one model under the service's limits, or finds that it is an adapter."""

    def load(spec: ModelSettings, progress: Progress, placement: Placement) -> Loaded | AdapterFolder:
        share_cores()
        import torch

        from model_service.engine.loading import load as load_model
        from model_service.models.loading import find_folder

        leave_modules_alone()
        if service.threads is not None:
            torch.set_num_threads(service.threads)
        plan = placement if isinstance(placement, ModelPlan) else None  # else wherever the engine would go by itself
        folder = find_folder(spec.source)
        if holds_adapter(folder):
            return adapter_folder(folder)
        model = load_model(
            str(folder),
            spec.task,
            model_id=spec.name,
            weights=plan.weights if plan else spec.weights,
            stages=plan.stages if plan else None,
            max_num_seqs=plan.slots or 1 if plan else service.max_num_seqs,
            max_queue=service.max_queue,
            shares=service.shares,
            progress=lambda done_bytes, total_bytes: progress(done_bytes / max(total_bytes, 1)),
        )
        return Loaded(model, folder, dict(model.device_map), model.size_bytes, model.weights)

    return load


def share_cores() -> None:
    """Let torch's idle threads sleep instead of spin; only works before torch is first imported.

    Spinning is faster on an empty machine and ruinous on a shared one, as ours is while a job trains: with two
    threads on two busy cores a 6 x 256 model made 10 tokens/s spinning and 107 sleeping.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def leave_modules_alone() -> None:
    """Take what importing torch made, which stays for ever, out of the garbage collector's rounds; once, before models.

    A full round over it stopped every thread for 260 ms (two busy cores). Models stay in: an unloaded one must go.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
