"""Devices and models to plan: the published ones, and random ones that are small."""

import random
from collections.abc import Sequence

from model_service.models.shape import GPT2Shape, GPTJShape, Shape
from model_service.placement.plan import Device, Wanted
from model_service.placement.sizes import Sizes
from model_service.placement.variants import VARIANTS

GIB, MIB = 1 << 30, 1 << 20


def gpus(*gib: float, used: int = 0) -> list[Device]:
    """GPUs of so many GiB."""
    return [Device(f"cuda:{i}", "gpu", int(size * GIB), used) for i, size in enumerate(gib)]


def cpu(gib: float) -> Device:
    """A CPU with so many GiB."""
    return Device("cpu", "cpu", int(gib * GIB))


def known(name: str, **wishes: object) -> Wanted:
    """A published variant."""
    return Wanted(name, Sizes(VARIANTS[name]), **wishes)  # type: ignore[arg-type]


def random_shape(rng: random.Random) -> Shape:
    """Sizes of a model of a few MiB to a few hundred."""
    n_head = rng.choice([1, 2, 4])
    sizes = {
        "vocab_size": rng.choice([257, 5000, 20000]),
        "n_positions": rng.choice([128, 1024]),
        "n_embd": n_head * rng.choice([64, 256, 384]),
        "n_layer": rng.randint(1, 24),
        "n_head": n_head,
    }
    if rng.random() < 0.3:
        return GPTJShape(**sizes, tied=False, rotary_dim=16)
    return GPT2Shape(**sizes, tied=rng.random() < 0.7)


def random_devices(rng: random.Random) -> list[Device]:
    """Up to three GPUs, often with a CPU or parts of one, some of their memory used by others."""
    count = rng.randint(0, 3)
    found = [Device(f"cuda:{i}", "gpu", rng.randint(300, 1100) * MIB, rng.randint(0, 100) * MIB) for i in range(count)]
    if not found or rng.random() < 0.4:
        parts = rng.choice([0, 0, 2, 3])
        found += [Device(f"cpu:{i}", "cpu", rng.randint(200, 900) * MIB) for i in range(parts)] or [
            Device("cpu", "cpu", rng.randint(300, 1500) * MIB)
        ]
    return found


def random_models(rng: random.Random, devices: Sequence[Device]) -> list[Wanted]:
    """One to six models, some that classify, some that may only go on some devices."""
    models = []
    for i in range(rng.randint(1, 6)):
        shape = random_shape(rng)
        labels = rng.choice([0, 0, 0, 3]) if shape.model_type == "gpt2" else 0
        names = [device.name for device in devices]
        models.append(
            Wanted(
                f"model-{i}",
                Sizes(shape, labels, kernels=shape.model_type == "gpt2" and not labels and rng.random() < 0.5),
                rng.choice(["auto", "auto", "float32", "int8"]),
                devices=tuple(rng.sample(names, rng.randint(1, len(names)))) if rng.random() < 0.2 else None,
                max_slots=rng.choice([1, 4, 16, 64]),
            )
        )
    return models
