"""The loader of the real service: settings in, a model on its device out. Blocks; run it in a thread.

Nothing here imports torch until a model is loaded, so that the service answers `/health/live` at once.
"""

import gc
import os
from collections.abc import Callable

from model_service.config import ModelSettings, ServiceSettings
from model_service.placement.adapted import AdapterFolder, adapter_folder, is_adapter
from model_service.placement.loaded import Loaded


class DevicesNotSupported(Exception):
    """The settings ask for a placement that does not exist yet."""


def loader(service: ServiceSettings) -> Callable[[ModelSettings], Loaded | AdapterFolder]:
    """Return the function that loads one model under the service's limits, or finds that it is an adapter."""

    def load(spec: ModelSettings) -> Loaded | AdapterFolder:
        share_cores()
        import torch

        from model_service.engine.loading import load as load_model
        from model_service.models.loading import find_folder

        leave_modules_alone()
        if service.threads is not None:
            torch.set_num_threads(service.threads)
        folder = find_folder(spec.source)
        if is_adapter(folder):
            return adapter_folder(folder)
        model = load_model(
            str(folder),
            spec.task,
            model_id=spec.name,
            weights=spec.weights,
            device=device_of(spec),
            max_num_seqs=service.max_num_seqs,
            max_queue=service.max_queue,
            shares=service.shares,
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


def device_of(spec: ModelSettings) -> str:
    """Return the one device a model goes to. Raises DevicesNotSupported for several."""
    if spec.devices == "auto":
        return "auto"
    if len(spec.devices) != 1:
        raise DevicesNotSupported(f'devices of {spec.name} must be "auto" or a list of one device for now.')
    return spec.devices[0]
