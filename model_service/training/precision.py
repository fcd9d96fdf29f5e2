"""In which number format a run computes. What is trained, and the optimizer's state, are float32 in each of them.

    full   float32 weights; autocast computes in 16 bits from rounded copies
    lora   a frozen base that is held in 16 bits itself, and float32 matrices beside it

FP16 ends at 65,504 and begins at 6e-8, so its gradients are scaled up (GradScaler); BF16 needs none of that.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from model_service.training.recipe import Adapter, Precision, Recipe

ROUNDS = 3
TOKENS = 256  # of a step, when it is measured
NARROW = 256  # up to this width a pass is mostly overhead, and 16 bits cannot pay
WORTH_IT = 0.9  # of float32's time: less precision must buy something


def choose(recipe: Recipe, device: torch.device, width: int) -> Precision:
    """Return the format of the recipe; for `auto` 16 bits on a GPU, and on a CPU whichever is faster at this width."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if width <= NARROW:
        return "float32"
    taken_s = {precision: _step_s(precision, recipe.adapter, width) for precision in ("float32", "bfloat16")}
    return "bfloat16" if taken_s["bfloat16"] < WORTH_IT * taken_s["float32"] else "float32"


def dtype_of(precision: Precision) -> torch.dtype:
    """Return torch's name for it."""
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Return what the passes of a step run under."""
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype_of(precision))


def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler of the gradients; it does something for FP16 only."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def _step_s(precision: Precision, adapter: Adapter, width: int) -> float:
    """Return the seconds of one pass there and back through the two largest linears of a layer, on the CPU."""
    frozen = adapter == "lora"
    dtype = dtype_of(precision) if frozen else torch.float32
    weights = [torch.full(size, 0.01, dtype=dtype) for size in ((width, 4 * width), (4 * width, width))]
    weights = [weight.requires_grad_(not frozen) for weight in weights]
    taken_s = []
    for _ in range(ROUNDS):
        x = torch.ones(TOKENS, width, requires_grad=True)
        began = time.perf_counter()
        with autocast(precision, torch.device("cpu"))():
            y: Tensor = x
            for weight in weights:
                y = y @ weight
        y.float().sum().backward()  # type: ignore[no-untyped-call]
        taken_s.append(time.perf_counter() - began)
    return min(taken_s)
