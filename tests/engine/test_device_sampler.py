"""Draws in tensor operations: the distribution that the parameters describe, and the host's tokens for its seeds."""

import math
from collections import Counter

import pytest
import torch

from model_service.engine import device_sampler, sampler
from model_service.engine.sequence import SamplingParams, Sequence

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


def rows(params: list[SamplingParams], seeds: list[int], position: int = 1) -> device_sampler.Rows:
    return device_sampler.Rows(
        seed=torch.tensor([device_sampler.signed(s) for s in seeds]),
        position=torch.full((len(seeds),), position),
        temperature=torch.tensor([p.temperature for p in params], dtype=torch.float64),
        top_k=torch.tensor([p.top_k for p in params]),
        top_p=torch.tensor([p.top_p for p in params], dtype=torch.float64),
        min_p=torch.tensor([p.min_p for p in params], dtype=torch.float64),
    )


def device_draws(logits: torch.Tensor, p: SamplingParams, n: int = DRAWS) -> list[int]:
    """Draw as a graph does, and again where the sorted head was too short."""
    some = rows([p] * n, list(range(n)))
    candidates = device_sampler.CANDIDATES if device_sampler.truncates(p) else 0
    drawn = device_sampler.draw(logits.expand(n, -1), some, candidates=candidates)
    whole = device_sampler.draw(logits.expand(n, -1), some, candidates=logits.shape[-1])
    assert (whole >= 0).all()
    assert ((drawn == whole) | (drawn == device_sampler.INCOMPLETE)).all()
    return torch.where(drawn == device_sampler.INCOMPLETE, whole, drawn).tolist()


def reference_probs(logits: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """The distribution by definition: temperature, min_p, top_k, top_p on the whole sorted row."""
    probs, order = (logits[0].double() / p.temperature).softmax(-1).sort(descending=True)
    probs = torch.where(probs >= p.min_p * probs[0], probs, 0)
    if p.top_k:
        probs[p.top_k :] = 0
    probs /= probs.sum()
    probs[(probs.cumsum(0) - probs) >= p.top_p] = 0
    return torch.zeros(VOCAB, dtype=torch.float64).scatter(0, order, probs / probs.sum())


@pytest.mark.parametrize("params", FILTERS)
def test_device_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    probs = reference_probs(logits, params)
    counts = Counter(device_draws(logits, params))
    assert all(probs[t] > 0 for t in counts), "a token was drawn that the filters drop"
    common = [t for t in range(VOCAB) if probs[t] * DRAWS >= 5]
    rest = 1 - sum(probs[t].item() for t in common)
    expected = [probs[t].item() * DRAWS for t in common] + [rest * DRAWS]
    observed = [counts[t] for t in common] + [DRAWS - sum(counts[t] for t in common)]
    chi = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 1)
    degrees = sum(e > 1 for e in expected) - 1
    assert abs(chi - degrees) <= CHI_SQUARE_LIMIT * math.sqrt(2 * max(degrees, 1))


@pytest.mark.parametrize("params", FILTERS)
def test_one_seed_draws_one_token_on_the_device_and_on_the_host(params: SamplingParams) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3)) * 2
    host = sampler.sample(logits.expand(400, -1), [Sequence(i, [0], params, seed=i) for i in range(400)])
    same = sum(a == b for a, b in zip(host, device_draws(logits, params, 400), strict=True))
    assert same >= 399, "only a draw that falls on a border to the last digit may differ"


def test_the_device_counts_the_same_random_numbers_as_the_host() -> None:
    numbers = torch.Generator().manual_seed(2)
    seeds = [0, 1, 2**63, 2**64 - 1, *torch.randint(0, 2**63 - 1, (500,), generator=numbers).tolist()]
    for position in (0, 1, 1023):
        drawn = device_sampler.uniform(
            torch.tensor([device_sampler.signed(s) for s in seeds]), torch.full((len(seeds),), position)
        )
        assert drawn.tolist() == [sampler.uniform(seed, position) for seed in seeds]


def test_rows_of_all_kinds_draw_together_as_each_does_alone() -> None:
    logits = torch.randn(len(FILTERS), VOCAB, generator=torch.Generator().manual_seed(4)) * 2
    params = [SamplingParams(temperature=0), *FILTERS[1:]]
    together = device_sampler.draw(logits, rows(params, [9] * len(params)), candidates=VOCAB)
    for i, p in enumerate(params):
        alone = device_sampler.draw(logits[i : i + 1], rows([p], [9]), candidates=VOCAB)
        assert together[i] == alone[0], p
    assert together[0] == logits[0].argmax()


@pytest.fixture
def broken() -> torch.Tensor:
    logits = torch.zeros(3, VOCAB)
    logits[1, 5], logits[2, 6] = math.nan, math.inf
    return logits


def test_rows_that_are_not_finite_are_named_and_no_token(broken: torch.Tensor) -> None:
    params = [SamplingParams(top_p=0.9)] * 3
    drawn = device_sampler.draw(broken, rows(params, [1, 2, 3]), candidates=VOCAB).tolist()
    assert drawn[0] >= 0
    assert drawn[1:] == [device_sampler.BROKEN] * 2
    assert device_sampler.greedy(broken).tolist()[1:] == [device_sampler.BROKEN] * 2
