"""The gate lets better models pass, and only those. No torch here."""

from dataclasses import replace

import numpy as np
import pytest

from model_service.training.gate import Evidence, Limits, cross_fit, decide, sureness

RNG = np.random.default_rng(1)
BEFORE = RNG.normal(60, 20, 40).clip(10)  # nats of 40 jokes


def make_evidence(gain: float = 2.0, spread: float = 1.0, **changes: object) -> Evidence:
    after = BEFORE - RNG.normal(gain, spread, 40)
    evidence = Evidence(BEFORE, after, after, np.full(40, 20.0), 4.0, 4.01, 0.0, 32)
    return replace(evidence, **changes)  # type: ignore[arg-type]


def test_a_better_model_passes_and_the_reasons_have_the_numbers() -> None:
    verdict = decide(make_evidence())
    assert verdict.passed
    assert len(verdict.reasons) == 3
    assert verdict.reasons[0].startswith("Held-out loss fell from ")
    assert "% sure it is lower" in verdict.reasons[0]
    assert "rose by 0.2%, from 4.000 to 4.010" in verdict.reasons[1]
    assert "0 of 32 samples" in verdict.reasons[2]


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (make_evidence(gain=-1), "Held-out loss did not fall"),
        (make_evidence(gain=0, spread=0), "Held-out loss did not fall"),
        (make_evidence(judged=BEFORE + np.resize([1.0, -1.01], 40)), "but it is only"),
        (make_evidence(general_after=4.1), "Loss on general texts rose by 2.5%"),
        (make_evidence(verbatim_rate=0.5), "16 of 32 samples are mostly copied"),
        (make_evidence(weights_finite=False), "not finite"),
    ],
)
def test_each_shortcoming_fails_with_its_sentence(evidence: Evidence, words: str) -> None:
    verdict = decide(evidence)
    assert not verdict.passed
    assert any(words in reason for reason in verdict.reasons)


def test_jokes_that_are_all_alike_may_be_told_alike() -> None:
    alike = make_evidence(verbatim_rate=0.5, natural_rate=0.45)
    assert decide(alike).passed
    assert "as 45% of the held-out jokes are this alike" in decide(alike).reasons[2]
    assert not decide(replace(alike, verbatim_rate=0.6)).passed


def test_a_lower_general_loss_is_said_as_such() -> None:
    assert "fell by 2.5%" in decide(make_evidence(general_after=3.9)).reasons[1]


def test_limits_can_be_moved() -> None:
    evidence = make_evidence(general_after=4.2)
    assert not decide(evidence).passed
    assert decide(evidence, Limits(max_general_rise=0.06)).passed


def test_noise_passes_about_as_often_as_the_limit_says() -> None:
    rng = np.random.default_rng(3)
    sure = [sureness(BEFORE, BEFORE + rng.normal(0, 2, 40)) for _ in range(200)]
    assert 0.01 <= np.mean([s >= 0.95 for s in sure]) <= 0.11


@pytest.mark.parametrize(
    ("gains", "share"),
    [
        ([3.0, -1.0], 3 / 4),  # of the four resamples only (-1, -1) is no gain
        ([1.0, -1.0], 1 / 4),  # a sum of 0 is no gain
        ([5.0, -1.0, -1.0], 19 / 27),  # all but the eight without the 5
        ([2.0, 1.0, 0.5], 1.0),
    ],
)
def test_the_bootstrap_finds_the_share_that_counting_all_resamples_gives(gains: list[float], share: float) -> None:
    before, after = np.full(len(gains), 50.0), np.full(len(gains), 50.0) - gains
    assert sureness(before, after) == pytest.approx(share, abs=0.02)  # 4,000 draws: three times their spread
    assert sureness(before, after) == sureness(before, after), "the same evidence gives the same verdict"


def test_each_limit_passes_up_to_it_and_fails_just_past_it() -> None:
    tokens, half = np.full(40, 20.0), BEFORE - 1.0
    good = Evidence(BEFORE, half, half, tokens, 4.0, 4.0, 0.0, 40)
    assert decide(good).passed
    for name, at, past in (("general_after", 4.0799, 4.0801), ("verbatim_rate", 4 / 40, 5 / 40)):
        assert decide(replace(good, **{name: at})).passed, name  # type: ignore[arg-type]
        assert not decide(replace(good, **{name: past})).passed, name  # type: ignore[arg-type]
    needed = sureness(BEFORE, BEFORE + np.resize([1.0, -1.3], 40))
    doubtful = replace(good, judged=BEFORE + np.resize([1.0, -1.3], 40))
    assert 0.5 < needed < 0.95
    assert decide(doubtful, Limits(min_sureness=needed)).passed
    assert not decide(doubtful, Limits(min_sureness=needed + 1e-6)).passed


def test_the_bootstrap_is_paired_so_a_small_steady_gain_is_seen() -> None:
    assert sureness(BEFORE, BEFORE - 0.1 + RNG.normal(0, 0.1, 40)) > 0.99  # the jokes themselves differ by 20 nats


def test_each_half_is_judged_at_the_step_the_other_half_chose() -> None:
    first = np.array([1.0, 9.0, 1.0, 9.0])  # best for the even jokes
    second = np.array([5.0, 5.0, 5.0, 5.0])
    third = np.array([9.0, 1.0, 9.0, 1.0])  # best for the odd jokes
    assert cross_fit([first, second, third], [True] * 3).tolist() == [9.0, 9.0, 9.0, 9.0]
    assert cross_fit([first, second, third], [False, True, False]).tolist() == second.tolist()


def test_choosing_the_best_of_many_looks_does_not_fool_the_gate() -> None:
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(100):  # models that are no better, each seen at 16 looks that differ by chance
        looks = [BEFORE + rng.normal(0, 2, 40) for _ in range(16)]
        passed += sureness(BEFORE, cross_fit(looks, [True] * 16)) >= 0.95
    assert passed <= 12
