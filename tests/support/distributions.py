"""What a draw must follow: the distribution that sampling parameters describe, and the test of draws against it."""

import math
from collections import Counter
from collections.abc import Sequence as Seq

import torch

from model_service.engine.sequence import SamplingParams

VOCAB = 1000
DRAWS = 4000
CHI_SQUARE_LIMIT = 3.7  # standard deviations; fixed seeds, so a pass stays a pass
FILTERS = [
    SamplingParams(),
    SamplingParams(temperature=0.7),
    SamplingParams(top_k=20),
    SamplingParams(top_p=0.8),
    SamplingParams(temperature=2.5, top_p=0.95),  # keeps more than the sorted head
    SamplingParams(min_p=0.05),
    SamplingParams(temperature=1.5, top_k=50, top_p=0.7, min_p=0.01),
    SamplingParams(top_k=700),
]


def logits_row(seed: int = 0) -> torch.Tensor:
    """(1, VOCAB), some tokens far likelier than others."""
    return torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def reference_probs(logits: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """The distribution by definition: temperature, min_p, top_k, top_p on the whole sorted row."""
    probs, order = (logits[0].double() / p.temperature).softmax(-1).sort(descending=True)
    probs = torch.where(probs >= p.min_p * probs[0], probs, 0)
    if p.top_k:
        probs[p.top_k :] = 0
    probs /= probs.sum()
    probs[(probs.cumsum(0) - probs) >= p.top_p] = 0
    return torch.zeros(VOCAB, dtype=torch.float64).scatter(0, order, probs / probs.sum())


def assert_follows(draws: Seq[int], probs: torch.Tensor) -> None:
    """Check DRAWS tokens by a chi-square test; rare tokens are counted together."""
    counts = Counter(draws)
    assert counts.total() == DRAWS
    assert all(probs[t] > 0 for t in counts), "a token was drawn that the filters drop"
    common = [t for t in range(VOCAB) if probs[t] * DRAWS >= 5]
    rest = 1 - sum(probs[t].item() for t in common)
    expected = [probs[t].item() * DRAWS for t in common] + [rest * DRAWS]
    observed = [counts[t] for t in common] + [DRAWS - sum(counts[t] for t in common)]
    chi = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 1)
    degrees = sum(e > 1 for e in expected) - 1
    assert abs(chi - degrees) <= CHI_SQUARE_LIMIT * math.sqrt(2 * max(degrees, 1))
