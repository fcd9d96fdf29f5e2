"""Keys and values of the running sequences, in fixed slots.

    keys[layer]    (S, H, T, D)     slot, head, position, head size; values alike

Slots are dense (see scheduler.py), so the running sequences are a prefix and attention reads a view.
What was never written is zero: attention multiplies it by a probability of 0, and 0 * NaN is NaN.
"""

import numpy as np
import torch
from torch import Tensor

from model_service.engine.scheduler import Move
from model_service.models.gpt2 import GPT2


class KVCache:
    """Room for `num_slots` sequences of `context_len` tokens, on the model's device and in its dtype."""

    def __init__(self, model: GPT2, num_slots: int, context_len: int) -> None:
        shape = (num_slots, model.shape.n_head, context_len, model.shape.head_size)
        self.keys = [_zeros(shape, model.dtype, model.device) for _ in model.blocks]
        self.values = [_zeros(shape, model.dtype, model.device) for _ in model.blocks]

    @property
    def size_bytes(self) -> int:
        """What is reserved in all."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def move(self, move: Move) -> None:
        """Copy a sequence into the slot that became free."""
        for cache in (*self.keys, *self.values):
            cache[move.target, :, : move.length] = cache[move.source, :, : move.length]

    def clear(self, slot: int) -> None:
        """Forget a slot whose content is not finite, so that it cannot reach the next sequence."""
        for cache in (*self.keys, *self.values):
            cache[slot].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are calloc's: a page is taken when it is first written, torch's are written at once
    *outer, inner = shape
    return torch.from_numpy(np.zeros((*outer, inner * dtype.itemsize), np.uint8)).view(dtype)
