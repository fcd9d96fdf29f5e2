"""Draws follow the distribution that the parameters describe, row by row."""

import math
import random
from collections.abc import Callable

import pytest
import torch

from model_service.engine.sampler import sample, sample_in_torch, token_logprobs, uniform
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.native.library import library, why_not
from tests.support.distributions import (
    DRAWS,
    FILTERS,
    VOCAB,
    assert_follows,
    logits_row,
    reference_probs,
)

Sample = Callable[[torch.Tensor, list[Sequence]], list[int | None]]
SAMPLERS = [pytest.param(sample, id="kernels or torch"), pytest.param(sample_in_torch, id="torch")]


def draws(logits: torch.Tensor, p: SamplingParams, n: int = DRAWS, by: Sample = sample) -> list[int]:
    """Draw n tokens as n sequences of one batch with different seeds."""
    token_ids = by(logits.expand(n, -1), [Sequence(i, [0], p, seed=i) for i in range(n)])
    return [t for t in token_ids if t is not None]


@pytest.mark.parametrize("by", SAMPLERS)
@pytest.mark.parametrize("params", FILTERS)
def test_draws_follow_the_distribution(params: SamplingParams, by: Sample) -> None:
    logits = logits_row()
    assert_follows(draws(logits, params, by=by), reference_probs(logits, params))


def test_the_random_stream_depends_on_seed_and_position_alone() -> None:
    assert uniform(3, 7) == uniform(3, 7)
    numbers = [uniform(s, p) for s in range(50) for p in range(50)]
    assert len(set(numbers)) == 2500
    assert all(0 <= n < 1 for n in numbers)
    assert abs(sum(numbers) / 2500 - 0.5) < 0.02


def test_a_rows_token_does_not_depend_on_its_neighbours() -> None:
    mixed = [
        SamplingParams(temperature=0),
        SamplingParams(),
        SamplingParams(top_p=0.5),
        SamplingParams(top_k=3, repetition_penalty=1.5),
        SamplingParams(logit_bias=((4, 50.0),)),
    ]
    logits = torch.cat([logits_row(i) for i in range(5)])
    rows = [Sequence(i, [1, 2], p, seed=9) for i, p in enumerate(mixed)]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [rows[i]])[0] for i in range(5)]
    assert together[4] == 4


def test_a_tiny_temperature_is_greedy_and_never_overflows() -> None:
    logits = logits_row() * 1e4
    assert set(draws(logits, SamplingParams(temperature=1e-6), 20)) == {int(logits.argmax())}


def test_a_banned_token_is_never_drawn() -> None:
    logits = torch.zeros(1, 3)
    banned = SamplingParams(logit_bias=((0, float("-inf")), (2, float("-inf"))))
    assert set(draws(logits, banned, 200)) == {1}


def test_penalties_count_as_documented() -> None:
    logits = torch.zeros(1, 5)
    logits[0] = torch.tensor([2.0, 1.9, -1.0, 0.0, 0.0])
    prompt_and_answer = Sequence(0, [0], SamplingParams(temperature=0, repetition_penalty=2.0), 0)
    assert sample(logits, [prompt_and_answer]) == [1]  # the prompt's token 0 was halved
    only_answer = Sequence(0, [0], SamplingParams(temperature=0, presence_penalty=1.0), 0)
    assert sample(logits, [only_answer]) == [0]  # the prompt does not count
    only_answer.token_ids.append(0)
    assert sample(logits, [only_answer]) == [1]


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = logits_row()
    entry = token_logprobs(logits, [5], [3])[0]
    expected = torch.log_softmax(logits, -1)[0]
    assert entry.logprob == pytest.approx(expected[5].item())
    assert list(entry.top) == expected.topk(3).indices.tolist()


needs_kernels = pytest.mark.skipif(bool(why_not()), reason=why_not() or "they run")


@needs_kernels
def test_kernels_and_torch_draw_the_same_tokens() -> None:
    rng = random.Random(5)
    rows, params = [], []
    for i in range(600):
        rows.append(torch.randn(VOCAB, generator=torch.Generator().manual_seed(i)) * rng.choice([0.5, 2, 6]))
        params.append(
            SamplingParams(
                temperature=rng.choice([0, 0.3, 0.8, 1, 2.5]),
                top_k=rng.choice([0, 0, 1, 3, 40, 999, 5000]),
                top_p=rng.choice([1, 1, 0.95, 0.5, 0.01]),
                min_p=rng.choice([0, 0, 0.05, 0.5]),
            )
        )
    sequences = [Sequence(i, [0] * rng.randint(1, 9), p, seed=rng.getrandbits(64)) for i, p in enumerate(params)]
    ours, reference = sample(torch.stack(rows), sequences), sample_in_torch(torch.stack(rows), sequences)
    differing = [i for i, (a, b) in enumerate(zip(ours, reference, strict=True)) if a != b]
    assert len(differing) <= 1, [params[i] for i in differing]  # u may fall on the border of two shares


@needs_kernels
def test_kernels_and_python_have_the_same_random_numbers() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        seed, position = rng.getrandbits(64), rng.randrange(2048)
        assert library().punchline_uniform(seed, position) == uniform(seed, position)


@pytest.mark.parametrize("by", SAMPLERS)
@pytest.mark.parametrize("broken", [[math.nan], [math.inf], [-math.inf] * VOCAB])
def test_a_row_whose_numbers_broke_gets_no_token_and_the_others_do(by: Sample, broken: list[float]) -> None:
    logits = logits_row().repeat(3, 1)
    logits[1, VOCAB - len(broken) :] = torch.tensor(broken)
    for p in (SamplingParams(temperature=0), SamplingParams(top_p=0.9)):
        first, second, third = by(logits, [Sequence(i, [0], p, seed=1) for i in range(3)])
        assert second is None
        assert first == third
        assert first is not None


@pytest.mark.parametrize("by", SAMPLERS)
def test_a_forbidden_token_is_never_drawn(by: Sample) -> None:
    logits = logits_row()
    logits[0, ::2] = -math.inf
    assert all(t % 2 for t in draws(logits, SamplingParams(temperature=3), n=500, by=by))


@pytest.mark.parametrize("by", SAMPLERS)
def test_the_first_of_equal_logits_is_the_greedy_token(by: Sample) -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, [17, 600]] = 4.0
    assert by(logits, [Sequence(0, [0], SamplingParams(temperature=0), seed=0)]) == [17]
