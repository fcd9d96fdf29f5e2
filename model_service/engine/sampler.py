"""Draws the next token of each row. A row's token depends on its logits, its parameters, its seed and
its position: never on what else is in the batch.

    raw logits ─ penalties, bias ─ / temperature ─ min_p ─ top_k ─ top_p ─ inverse of the cumulative sum at u

`u` is a counter-based random number of (seed, position), so a seed repeats whatever shares the batch.
The order of the filters is vLLM's.
"""

from collections import Counter

import torch
from torch import Tensor

from model_service.engine.sequence import SamplingParams, Sequence, TokenLogprob
from model_service.native import library as native

CANDIDATES = 512  # a sorted head this long nearly always holds what top_p keeps; else the row is sorted whole
_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that depends on (seed, position) alone (SplitMix64, Steele et al. 2014)."""
    return _mix((_mix(seed & _MASK) + position) & _MASK) / (1 << 64)


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 11 << 11  # 53 bits: the division by 2**64 is exact and stays below 1


def sample(logits: Tensor, sequences: list[Sequence]) -> list[int | None]:
    """Return one token id per row, None where a row holds a NaN or nothing finite.

    logits: (B, V) float32; not changed. On a CPU our kernels draw, where they run; the definition is the same.
    """
    if any(s.params.edits_logits for s in sequences):
        logits = _edit(logits.clone(), sequences)
    if logits.device.type == "cpu" and not native.why_not():
        draws = [_native_draw(s) for s in sequences]
        return [None if t < 0 else t for t in native.draw(logits.contiguous(), draws)]
    return sample_in_torch(logits, sequences)


def _native_draw(sequence: Sequence) -> tuple[int, int, float, float, float, int]:
    p = sequence.params
    return sequence.seed & _MASK, len(sequence.token_ids), p.temperature, p.top_p, p.min_p, p.top_k


def sample_in_torch(logits: Tensor, sequences: list[Sequence]) -> list[int | None]:
    """Like `sample`, on any device; penalties and bias are in the logits already."""
    finite = logits.amax(dim=-1).isfinite()  # a NaN anywhere makes the largest one NaN
    params = [s.params for s in sequences]
    logits = torch.where(finite[:, None], logits, 0.0)
    token_ids = logits.argmax(dim=-1)
    drawn = [i for i, p in enumerate(params) if p.temperature > 0]
    if drawn:
        u = [uniform(sequences[i].seed, len(sequences[i].token_ids)) for i in drawn]
        token_ids[drawn] = _draw(logits[drawn], [params[i] for i in drawn], u)
    return [int(t) if ok else None for t, ok in zip(token_ids.tolist(), finite.tolist(), strict=True)]


def _draw(logits: Tensor, params: list[SamplingParams], u: list[float]) -> Tensor:
    """Return (B,) int64 drawn from (B, V) logits; `u` has one number per row."""
    device = logits.device
    temperature = torch.tensor([p.temperature for p in params], device=device)
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature[:, None]  # at most 0: never overflows
    points = torch.tensor(u, dtype=torch.float64, device=device)
    whole = [i for i, p in enumerate(params) if not _truncates(p)]
    cut = [i for i, p in enumerate(params) if _truncates(p)]
    token_ids = torch.empty(len(params), dtype=torch.int64, device=device)
    if whole:
        token_ids[whole] = _invert(scaled[whole].double().exp(), points[whole])
    if cut:
        token_ids[cut] = _draw_truncated(scaled[cut], [params[i] for i in cut], points[cut])
    return token_ids


def _truncates(p: SamplingParams) -> bool:
    return p.top_k > 0 or p.top_p < 1 or p.min_p > 0


def _draw_truncated(scaled: Tensor, params: list[SamplingParams], points: Tensor) -> Tensor:
    """Like `_draw`, for rows with min_p, top_k or top_p. Sorts a head of each row, or all where that is not enough."""
    vocab_size = scaled.shape[-1]
    total = scaled.double().exp().sum(dim=-1, keepdim=True)
    head = min(vocab_size, max(CANDIDATES, *(p.top_k for p in params)))
    while True:
        values, ids = scaled.topk(head, dim=-1)
        kept, complete = _keep(values.double().exp() / total, params, whole=head == vocab_size)
        if complete:
            return ids.gather(-1, _invert(kept, points)[:, None])[:, 0]
        head = vocab_size


def _keep(probs: Tensor, params: list[SamplingParams], *, whole: bool) -> tuple[Tensor, bool]:
    """Zero what the filters drop. probs: (B, K) sorted, shares of the whole row.

    Returns (kept, whether the K candidates surely hold all that the filters keep).
    """
    device = probs.device
    min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)[:, None]
    top_k = torch.tensor([p.top_k or probs.shape[-1] + 1 for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)[:, None]
    passes_min_p = probs >= min_p * probs[:, :1]
    within_k = torch.arange(probs.shape[-1], device=device) < top_k
    candidates = probs * (passes_min_p & within_k)
    # a filter that dropped candidates leaves a smaller whole, of which top_p is a share
    complete_before_p = ~(passes_min_p & within_k)[:, -1:] | whole
    mass = torch.where(complete_before_p, candidates.sum(dim=-1, keepdim=True), 1.0)
    before = candidates.cumsum(dim=-1) - candidates
    keeps = before < top_p * mass
    complete = complete_before_p[:, 0] | ~keeps[:, -1]
    return candidates * keeps, bool(complete.all())


def _invert(weights: Tensor, points: Tensor) -> Tensor:
    """Return (B,) indices i where the cumulative sum first exceeds point * total. weights: (B, K) float64."""
    cumulative = weights.cumsum(dim=-1)
    target = points[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)


def _edit(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """Apply penalties and bias in place. Repetition counts the prompt too, as in transformers; the others do not."""
    for row, sequence in zip(logits, sequences, strict=True):
        p = sequence.params
        if p.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(sequence.token_ids)), device=logits.device)
            values = row[seen]
            row[seen] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
        if p.presence_penalty or p.frequency_penalty:
            for token_id, count in Counter(sequence.token_ids[sequence.prompt_len :]).items():
                row[token_id] -= p.presence_penalty + p.frequency_penalty * count
        for token_id, bias in p.logit_bias:
            row[token_id] += bias
    return logits


def token_logprobs(logits: Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprob]:
    """Return each row's log-probability of its token under the raw logits, with its likeliest `num_top` tokens."""
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(-1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0].tolist()
    if not any(num_top):
        return [TokenLogprob(t, lp) for t, lp in zip(token_ids, chosen, strict=True)]
    values, ids = logprobs.topk(min(max(num_top), logits.shape[-1]), dim=-1)
    tops = [
        dict(zip(i[:n], v[:n], strict=True)) for i, v, n in zip(ids.tolist(), values.tolist(), num_top, strict=True)
    ]
    return [TokenLogprob(t, lp, top) for t, lp, top in zip(token_ids, chosen, tops, strict=True)]
