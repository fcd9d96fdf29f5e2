"""Keys and values of the running sequences, and of those that ran, in fixed slots.

    keys[layer]    (S, H, T, D)     slot, head, position, head size; values alike; of the layers the model holds

Slots are dense (see scheduler.py), so the running sequences are a prefix and attention reads a view. What they
left behind stays until the slot is needed (see slots.py).
What was never written is zero: attention multiplies it by a probability of 0, and 0 * NaN is NaN.
"""

import numpy as np
import torch
from torch import Tensor

from model_service.engine.scheduler import Copy, Move
from model_service.models.decoder import Decoder


class KVCache:
    """Room for `num_slots` sequences of `context_len` tokens, on the model's device and in its dtype."""

    def __init__(self, model: Decoder, num_slots: int, context_len: int) -> None:
        shape = (num_slots, model.shape.n_head, context_len, model.shape.head_size)
        self._all = _zeros((2 * len(model.layers), *shape), model.dtype, model.device)
        self.keys = dict(zip(model.layers, self._all[0::2], strict=True))
        self.values = dict(zip(model.layers, self._all[1::2], strict=True))
        # what a transfer takes at once: on a CPU what its caches hold, else everything, for that is one launch
        self._parts = list(self._all) if model.device.type == "cpu" else [self._all]
        pairs = self._all.view(-1, 2, *shape)  # (2, S, H, T, D) of each layer: both in one write
        self.pairs = dict(zip(model.layers, pairs, strict=True))

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._all.dtype

    @property
    def size_bytes(self) -> int:
        """What is reserved in all."""
        return self._all.nbytes

    def move(self, move: Move) -> None:
        """Let two slots exchange their first `length` tokens."""
        for part in self._parts:
            here, there = beginning(part, move.source, move.length), beginning(part, move.target, move.length)
            kept = there.clone()
            there.copy_(here)
            here.copy_(kept)

    def copy(self, copy: Copy) -> None:
        """Copy the first `length` tokens of a slot to another."""
        for part in self._parts:
            beginning(part, copy.target, copy.length).copy_(beginning(part, copy.source, copy.length))

    def clear(self, slot: int) -> None:
        """Forget a slot whose content is not finite, so that it cannot reach the next sequence."""
        self._all[:, slot].zero_()


def beginning(part: Tensor, slot: int, length: int) -> Tensor:
    """Return a slot's first tokens, (…, H, length, D), as a view. part: (…, S, H, T, D)."""
    return part[..., slot, :, :length, :]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are calloc's: a page is taken when it is first written, torch's are written at once
    *outer, inner = shape
    return torch.from_numpy(np.zeros((*outer, inner * dtype.itemsize), np.uint8)).view(dtype)
