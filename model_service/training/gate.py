"""Decides whether a tuned model is better than the one it started from. Pure Python and numpy: no torch here.

    held-out jokes    lower loss, and sure of it: paired bootstrap over jokes
    general texts     loss at most 2 % higher: it still knows everything else
    samples           few of them copied from the training jokes, beyond what jokes of this kind share anyway
    weights           all finite

The step that is kept was chosen by looking at the held-out jokes, so judging it by the same jokes would
flatter it. Hence `cross_fit`: the jokes are dealt into two halves, and each half is judged at the step
the other half would have chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Limits:
    """What passes."""

    min_sureness: float = 0.95
    max_general_rise: float = 0.02
    max_verbatim_rate: float = 0.10  # above the natural rate


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gate looks at. Losses of jokes are sums in nats, one entry per held-out joke, in the same order."""

    before: Floats  # (N,) the model the job started from
    after: Floats  # (N,) the tuned model
    judged: Floats  # (N,) the tuned model, as `cross_fit` has it; decides how sure we are
    tokens: Floats  # (N,) labelled tokens per joke
    general_before: float  # nats per token
    general_after: float
    verbatim_rate: float  # share of samples
    num_samples: int
    natural_rate: float = 0.0  # share of held-out jokes that would count as copied, though nobody copied them
    weights_finite: bool = True

    def figures(self) -> dict[str, float]:
        """Return the means and rates, for people and manifests; losses in nats per token."""
        return {
            "val_loss_before": float(self.before.sum() / self.tokens.sum()),
            "val_loss_after": float(self.after.sum() / self.tokens.sum()),
            "sureness": sureness(self.before, self.judged),
            "general_loss_before": self.general_before,
            "general_loss_after": self.general_after,
            "verbatim_rate": self.verbatim_rate,
            "natural_rate": self.natural_rate,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it passed, and why, in plain sentences."""

    passed: bool
    reasons: list[str]


def cross_fit(history: Sequence[Floats], allowed: Sequence[bool]) -> Floats:
    """Judge each half of the jokes at the step that is best for the other half.

    history: losses at each look, each (N,). allowed: which looks may be chosen; at least one. Returns (N,).
    """
    losses = np.stack(history)  # (looks, N)
    usable = np.flatnonzero(allowed)
    odd = np.arange(losses.shape[1]) % 2 == 1
    best_for_odd = usable[losses[usable][:, odd].sum(axis=1).argmin()]
    best_for_even = usable[losses[usable][:, ~odd].sum(axis=1).argmin()]
    judged: Floats = np.where(odd, losses[best_for_even], losses[best_for_odd])
    return judged


def sureness(before: Floats, after: Floats, seed: int = 0) -> float:
    """Return the share of resamples of the jokes in which `after` is lower in sum: a paired bootstrap."""
    gain = before - after
    rng = np.random.default_rng(seed)
    wins = 0
    for _ in range(RESAMPLES // 100):  # in parts, so that memory stays small
        picks = rng.integers(0, len(gain), size=(100, len(gain)))
        wins += int((gain[picks].sum(axis=1) > 0).sum())
    return wins / (RESAMPLES // 100 * 100)


def decide(evidence: Evidence, limits: Limits | None = None) -> Verdict:
    """Weigh the evidence. Every check gives one sentence with its numbers."""
    limits = limits or Limits()
    if not evidence.weights_finite:
        return Verdict(False, ["Some weights are not finite numbers, so the new model would answer nonsense."])
    checks = [_held_out(evidence, limits), _general(evidence, limits), _verbatim(evidence, limits)]
    return Verdict(all(passed for passed, _ in checks), [reason for _, reason in checks])


def _held_out(e: Evidence, limits: Limits) -> tuple[bool, str]:
    before, after = e.before.sum() / e.tokens.sum(), e.after.sum() / e.tokens.sum()
    sure = sureness(e.before, e.judged)
    percent = min(99, int(100 * sure))
    if not after < before:
        return False, f"Held-out loss did not fall: it was {before:.3f} and is {after:.3f}. The old model fits better."
    change = f"Held-out loss fell from {before:.3f} to {after:.3f}"
    if sure < limits.min_sureness:
        return (
            False,
            f"{change}, but it is only {percent} % sure that it is lower; {limits.min_sureness:.0%} is needed.",
        )
    return True, f"{change} ({percent} % sure it is lower)."


def _general(e: Evidence, limits: Limits) -> tuple[bool, str]:
    change = e.general_after / e.general_before - 1
    numbers = f"from {e.general_before:.3f} to {e.general_after:.3f}"
    if change > limits.max_general_rise:
        return False, (
            f"Loss on general texts rose by {change:.1%}, {numbers}; at most {limits.max_general_rise:.0%} is allowed."
            " The new model has forgotten too much else."
        )
    word = "rose" if change > 0 else "fell"
    return (
        True,
        f"Loss on general texts {word} by {abs(change):.1%}, {numbers} (at most {limits.max_general_rise:.0%} up).",
    )


def _verbatim(e: Evidence, limits: Limits) -> tuple[bool, str]:
    copied = round(e.verbatim_rate * e.num_samples)
    allowed = e.natural_rate + limits.max_verbatim_rate
    numbers = f"{copied} of {e.num_samples} samples"
    why = f", as {e.natural_rate:.0%} of the held-out jokes are this alike" if e.natural_rate else ""
    if e.verbatim_rate > allowed:
        return False, f"{numbers} are mostly copied from the training jokes; at most {allowed:.0%} may be{why}."
    return True, f"{numbers} are mostly copied from the training jokes (at most {allowed:.0%} may be{why})."
