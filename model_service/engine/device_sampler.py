"""Draws next tokens in tensor operations of fixed shapes, without a word to the host: a CUDA graph can hold it.

    logits ─ / temperature ─ min_p ─ top_k ─ top_p ─ inverse of the cumulative sum at u(seed, position)

The definitions are those of sampler.py, so one u draws one token there and here, up to rounding: weights are float32,
their sums float64. A row that truncates looks at a sorted head of the vocabulary only; where that head may not hold
all that the filters keep, the draw says so and the caller draws that row again over the whole of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_service.engine.sequence import SamplingParams

CANDIDATES = 512  # the sorted head
BROKEN, INCOMPLETE = -1, -2  # in place of a token id: the logits are not finite; the head was too short
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's
_FRACTION_BITS = 53


@dataclass(frozen=True, slots=True)
class Rows:
    """What decides the draw of each row: (B,) each. seed and position: int64; top_k: int64, the others float64.

    position is the index that the drawn token will have; 0 turns temperature, top_k and min_p off, 1 top_p.
    """

    seed: Tensor
    position: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor


def truncates(params: SamplingParams) -> bool:
    """Whether a row with these parameters needs the sorted head."""
    return params.temperature > 0 and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0)


def greedy(logits: Tensor) -> Tensor:
    """Return each row's likeliest token, or BROKEN. logits: (B, V) float32."""
    best, token_ids = logits.max(dim=-1)  # a NaN anywhere is the largest
    return token_ids.masked_fill(~best.isfinite(), BROKEN)


def draw(logits: Tensor, rows: Rows, *, candidates: int) -> Tensor:
    """Draw a token id per row: (B,) int64, BROKEN or INCOMPLETE where there is none; rows at temperature 0 are greedy.

    logits: (B, V) float32. candidates: how many of the likeliest tokens rows with top_k, top_p or min_p choose
    from; 0 if no row has any of them. With V of them no row is INCOMPLETE.
    """
    likeliest = greedy(logits)
    cold = rows.temperature == 0
    temperature = rows.temperature.masked_fill(cold, 1.0).float()[:, None]
    weights = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).exp()  # at most 1: never overflows
    u = uniform(rows.seed, rows.position)
    drawn = _invert(weights, u)
    if candidates:
        cut = (rows.top_k > 0) | (rows.top_p < 1) | (rows.min_p > 0)
        drawn = torch.where(cut, _draw_truncated(weights, rows, u, min(candidates, logits.shape[-1])), drawn)
    return torch.where(cold | (likeliest == BROKEN), likeliest, drawn)


def _draw_truncated(weights: Tensor, rows: Rows, u: Tensor, candidates: int) -> Tensor:
    """Draw from the filtered head of each row, or say INCOMPLETE. weights: (B, V), 1 at the likeliest."""
    head, ids = weights.topk(candidates, dim=-1)
    top_k = rows.top_k.masked_fill(rows.top_k == 0, candidates + 1)[:, None]
    passes = (head >= rows.min_p[:, None]) & (torch.arange(candidates, device=head.device) < top_k)
    kept = head.double() * passes
    # a filter that dropped candidates leaves a smaller whole, of which top_p is a share
    complete = ~passes[:, -1] | (candidates == weights.shape[-1])
    whole = torch.where(complete, kept.sum(dim=-1), weights.sum(dim=-1, dtype=torch.float64))
    before = kept.cumsum(dim=-1) - kept
    nucleus = (before < (rows.top_p * whole)[:, None]) | (rows.top_p >= 1)[:, None]
    complete = complete | ~nucleus[:, -1]
    drawn = ids.gather(-1, _invert(kept * nucleus, u)[:, None])[:, 0]
    return drawn.masked_fill(~complete, INCOMPLETE)


def _invert(weights: Tensor, u: Tensor) -> Tensor:
    """Return (B,) indices where the cumulative sum first exceeds u of the total. weights: (B, K)."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    target = u[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """Return (B,) float64 in [0, 1): the numbers of sampler.uniform. seed: 64 bits held in an int64."""
    mixed = _mix(_mix(seed) + position)
    return _shift(mixed, 64 - _FRACTION_BITS).double() * 2.0**-_FRACTION_BITS


def _mix(z: Tensor) -> Tensor:
    z = z + signed(_GOLDEN)  # int64 wraps around, as it must
    z = (z ^ _shift(z, 30)) * signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * signed(_MIX_2)
    return (z ^ _shift(z, 31)) & -(1 << (64 - _FRACTION_BITS))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right as if z had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def signed(bits: int) -> int:
    """Return the int64 that has these 64 bits."""
    bits &= (1 << 64) - 1
    return bits - (1 << 64) if bits >> 63 else bits
