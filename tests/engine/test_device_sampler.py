"""Draws in tensor operations: the distribution that the parameters describe, and the host's tokens for its seeds."""

import math

import pytest
import torch

from model_service.engine import device_sampler, sampler
from model_service.engine.sequence import SamplingParams, Sequence
from tests.support.distributions import DRAWS, FILTERS, VOCAB, assert_follows, logits_row, reference_probs


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


@pytest.mark.parametrize("params", FILTERS)
def test_device_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = logits_row()
    assert_follows(device_draws(logits, params), reference_probs(logits, params))


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
