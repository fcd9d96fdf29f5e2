"""Attention of one step: running sequences together, chunks of prompts one by one.

rows of the step   | d d d d | p p p p p p | p p p |      d: one token each, p: chunks of two prompts
                     └ one batched product over the cache's prefix of slots
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
        self._prefix = slots == list(range(len(slots)))
        ahead = torch.arange(self._longest, device=device) > self._positions[:, None]  # (B, T)
        self._ahead = ahead[:, None, :] if ahead.any() else None

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
        rows = slice(len(q)) if self._prefix else self._slots  # a view, or a copy while prompts are being read
        keys, values = keys[rows, :, : self._longest], values[rows, :, : self._longest]  # (B, H, T, D)
        scores = torch.matmul(keys, q.unsqueeze(-1)).squeeze(-1).float()  # (B, H, T)
        scores = scores * self._shape.attention_scale(layer)
        if self._ahead is not None:
            scores.masked_fill_(self._ahead, float("-inf"))
        probs = torch.softmax(scores, dim=-1).to(q.dtype)
        return torch.matmul(probs.unsqueeze(-2), values).squeeze(-2)

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
