"""Keys and values of the running sequences, in fixed slots.

    keys[layer]    (S, H, T, D)     slot, head, position, head size; values alike

Slots are dense (see scheduler.py), so the running sequences are a prefix and attention reads a view.
Memory is reserved for all slots at once; a CPU's pages are only taken when they are first written.
"""

import torch
from torch import Tensor

from model_service.engine.scheduler import Move
from model_service.models.gpt2 import GPT2


class KVCache:
    """Room for `num_slots` sequences of `context_len` tokens, on the model's device and in its dtype."""

    def __init__(self, model: GPT2, num_slots: int, context_len: int) -> None:
        shape = (num_slots, model.shape.n_head, context_len, model.shape.head_size)
        self.keys = [torch.empty(shape, dtype=model.dtype, device=model.device) for _ in model.blocks]
        self.values = [torch.empty(shape, dtype=model.dtype, device=model.device) for _ in model.blocks]

    @property
    def size_bytes(self) -> int:
        """What is reserved in all."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def move(self, move: Move) -> None:
        """Copy a sequence into the slot that became free."""
        for cache in (*self.keys, *self.values):
            cache[move.target, :, : move.length] = cache[move.source, :, : move.length]
