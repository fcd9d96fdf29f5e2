"""Decides whether a classifier is better than before; one with a new head must beat always saying the same.

accuracy         higher than the old model's, or than the commonest label's
held-out loss    lower, and sure of it: paired bootstrap over texts
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_service.training.gate import Floats, Limits, Verdict, sureness


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model, or a simple rule, makes of the held-out texts. nats, chosen: (N,). name: for people."""

    name: str
    nats: Floats
    chosen: Sequence[int]


@dataclass(frozen=True, slots=True)
class LabelEvidence:
    """labels: the right ones, (N,). judged: the new model's losses as `gate.cross_fit` has them, (N,)."""

    labels: Sequence[int]
    before: Answers
    after: Answers
    judged: Floats

    def accuracy(self, answers: Answers) -> float:
        """Return the share of right answers."""
        return float(np.mean(np.asarray(answers.chosen) == np.asarray(self.labels)))

    def confusion(self, num_labels: int) -> list[list[int]]:
        """Count the new model's answers: a row for each right label, a column for each answer."""
        counts = np.zeros((num_labels, num_labels), dtype=int)
        np.add.at(counts, (np.asarray(self.labels), np.asarray(self.after.chosen)), 1)
        return [[int(count) for count in row] for row in counts]

    def figures(self) -> dict[str, float]:
        """Return accuracies and losses in nats per text."""
        return {
            "accuracy_before": self.accuracy(self.before),
            "accuracy_after": self.accuracy(self.after),
            "val_loss_before": float(self.before.nats.mean()),
            "val_loss_after": float(self.after.nats.mean()),
            "sureness": sureness(self.before.nats, self.judged),
        }


def most_common(train: Sequence[int], held_out: Sequence[int], names: Sequence[str]) -> Answers:
    """Return what always saying the commonest label gives; its loss is that of knowing the labels' shares alone."""
    counts = np.bincount(np.asarray(train), minlength=len(names)) + 1.0  # no label is impossible
    nats: Floats = -np.log(counts / counts.sum())[np.asarray(held_out)]
    commonest = int(counts.argmax())
    return Answers(f"always answering {names[commonest]!a}", nats, [commonest] * len(held_out))


def decide(evidence: LabelEvidence, limits: Limits | None = None) -> Verdict:
    """Weigh the evidence. Every check gives one sentence with its numbers."""
    checks = [_accuracy(evidence), _loss(evidence, limits or Limits())]
    return Verdict(all(passed for passed, _ in checks), [reason for _, reason in checks])


def _accuracy(e: LabelEvidence) -> tuple[bool, str]:
    before, after = e.accuracy(e.before), e.accuracy(e.after)
    numbers = f"{after:.1%} of {len(e.labels)} held-out texts are labelled right; {e.before.name}: {before:.1%}"
    return after > before, f"{numbers}." if after > before else f"{numbers}. That is not better."


def _loss(e: LabelEvidence, limits: Limits) -> tuple[bool, str]:
    before, after, sure = float(e.before.nats.mean()), float(e.after.nats.mean()), sureness(e.before.nats, e.judged)
    numbers = f"from {before:.3f} to {after:.3f}"
    if not after < before:
        return False, f"Held-out loss did not fall: {numbers}."
    passed = sure >= limits.min_sureness
    needed = "" if passed else f", but {limits.min_sureness:.0%} is needed"
    return passed, f"Held-out loss fell {numbers} ({min(99, int(100 * sure))} % sure it is lower{needed})."
