"""Attention of one step: running sequences together, chunks of prompts one by one.

rows of the step   | d d d d | p p p p p p | p p p |      d: one token each, p: chunks of two prompts
                     └ one batched product over the cache's prefix of slots

torch's scaled_dot_product_attention takes the device's best kernel: on a GPU FlashAttention for the beginning of a
prompt (which is causal) and the memory-efficient kernel where a mask says what is seen. Both keep scores in float32,
whatever the model is held in, and so does the one for CPUs.
"""

from collections.abc import Sequence as Seq

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.engine.kv_cache import KVCache
from model_service.engine.scheduler import Chunk
from model_service.models.shape import Shape


class StepAttention:
    """Writes the step's keys and values into the cache and attends over it. `chunks`: single tokens first."""

    def __init__(self, chunks: Seq[Chunk], cache: KVCache, shape: Shape, device: torch.device) -> None:
        single = [c for c in chunks if c.end - c.start == 1]
        self._num_single = len(single)
        self._chunks = chunks[len(single) :]
        self._cache, self._shape = cache, shape
        if not single:
            return
        slots = [c.sequence.slot for c in single]
        self._slots = torch.tensor(slots, device=device)
        self._positions = torch.tensor([c.start for c in single], device=device)
        self._longest = max(c.end for c in single)
        self._slice = slice(slots[0], slots[0] + len(slots))
        self._dense = slots == list(range(self._slice.start, self._slice.stop))
        self._seen = None
        if any(c.end < self._longest for c in single):
            self._seen = torch.arange(self._longest, device=device) <= self._positions[:, None]  # (B, T)
        # on a CPU products in 16 bits are quicker, where a model may round its scores to them
        in_16_bits = device.type == "cpu" and cache.dtype.itemsize == 2
        self._attend = _by_products if in_16_bits and not shape.scores_in_float32 else _at_once

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (N, H, D), rows in the order of the chunks. Returns (N, H, D)."""
        if not self._chunks:
            return self._single(layer, q, k, v)
        out = torch.empty_like(q)
        row = self._num_single
        if row:
            out[:row] = self._single(layer, q[:row], k[:row], v[:row])
        for chunk in self._chunks:
            end = row + chunk.end - chunk.start
            out[row:end] = self._chunk(chunk, layer, q[row:end], k[row:end], v[row:end])
            row = end
        return out

    def _single(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One query per sequence, (B, H, D), over what each has in the cache."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, :, self._positions] = k
        values[self._slots, :, self._positions] = v
        rows = self._slice if self._dense else self._slots  # a view, or a copy while prompts are being read
        keys, values = keys[rows, :, : self._longest], values[rows, :, : self._longest]  # (B, H, T, D)
        return self._attend(q, keys, values, self._seen, self._shape.attention_scale(layer))

    def _chunk(self, chunk: Chunk, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Several queries of one sequence, (n, H, D), over its first `chunk.end` tokens."""
        slot, start, end = chunk.sequence.slot, chunk.start, chunk.end
        keys, values = self._cache.keys[layer][slot], self._cache.values[layer][slot]  # (H, T, D)
        keys[:, start:end], values[:, start:end] = k.transpose(0, 1), v.transpose(0, 1)
        seen = None
        if start:
            seen = torch.ones(end - start, end, dtype=torch.bool, device=q.device).tril(diagonal=start)
        attended = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            keys[None, :, :end],
            values[None, :, :end],
            attn_mask=seen,
            is_causal=seen is None,
            scale=self._shape.attention_scale(layer),
        )
        return attended[0].transpose(0, 1)


def _at_once(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """q: (B, H, D). keys, values: (B, H, T, D). seen: (B, T) bool, None for everything. Returns (B, H, D)."""
    mask = None if seen is None else seen[:, None, None]
    return F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=mask, scale=scale)[:, :, 0]


def _by_products(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Do what `_at_once` does; scores are rounded to the format of keys, and taken on in float32."""
    scores = torch.matmul(keys, q.unsqueeze(-1)).squeeze(-1).float() * scale  # (B, H, T)
    if seen is not None:
        scores.masked_fill_(~seen[:, None], float("-inf"))
    probs = torch.softmax(scores, dim=-1).to(q.dtype)
    return torch.matmul(probs.unsqueeze(-2), values).squeeze(-2)
