"""What a server's votes say about a joke that nobody has heard yet: a small model of words, to choose among candidates.

    liked, disliked texts ─ words and pairs of words ─ log-odds of each, smoothed ─ score of a text: their mean

It is asked only if it knows something: each voted text is scored by what the others say, and a liked one must come
before a disliked one clearly more often than by chance. Pure Python; nothing is kept but the votes themselves.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bot.store.text import normalise

MIN_OF_EACH = 10  # liked and disliked texts; fewer say nothing
MIN_SURENESS = 0.6  # share of pairs it must order as people do, on texts that it has not seen
CHANCE_SDS = 3.0  # and as far above what chance gives; votes by lot got past it in 3 of 450 trials
PRIOR = 1.0  # texts that are thought to have each word already


@dataclass(frozen=True, slots=True)
class Taste:
    """How often each feature stands in liked and in disliked texts. sureness: see MIN_SURENESS, 0.5 is chance."""

    liked: Counter[str]
    disliked: Counter[str]
    num_liked: int
    num_disliked: int
    sureness: float

    def score(self, text: str) -> float:
        """Return how likely people are to like a text; only comparisons have a meaning."""
        return _score(features(text), self.liked, self.disliked, self.num_liked, self.num_disliked)

    def best(self, texts: Sequence[str]) -> int:
        """Return the place of the text people will like most; nothing to say comes last."""
        return max(range(len(texts)), key=lambda place: (bool(texts[place].strip()), self.score(texts[place])))


def learn(voted: Sequence[tuple[str, int]]) -> Taste | None:
    """Learn from (text, net votes). None where there is too little, or it does not tell liked from disliked."""
    liked = [features(text) for text, net in voted if net > 0]
    disliked = [features(text) for text, net in voted if net < 0]
    if min(len(liked), len(disliked)) < MIN_OF_EACH:
        return None
    up, down = Counter[str](), Counter[str]()
    for each in liked:
        up.update(each)
    for each in disliked:
        down.update(each)
    sureness = _sureness(liked, disliked, up, down)
    chance = math.sqrt((len(liked) + len(disliked) + 1) / (12 * len(liked) * len(disliked)))  # of a rank sum
    if sureness < max(MIN_SURENESS, 0.5 + CHANCE_SDS * chance):
        return None
    return Taste(up, down, len(liked), len(disliked), sureness)


def features(text: str) -> frozenset[str]:
    """Return a text's words and pairs of neighbouring words, and whether it asks something."""
    words = normalise(text).split()
    asks = {"?"} if "?" in text else set()
    return frozenset({*words, *map(" ".join, pairwise(words)), *asks})


def _score(found: frozenset[str], up: Counter[str], down: Counter[str], num_up: int, num_down: int) -> float:
    known = [feature for feature in found if up[feature] + down[feature] > 0]
    odds = (
        math.log((up[feature] + PRIOR) / (num_up + 2 * PRIOR))
        - math.log((down[feature] + PRIOR) / (num_down + 2 * PRIOR))
        for feature in known
    )
    return sum(odds) / math.sqrt(len(known)) if known else 0.0


def _sureness(
    liked: Sequence[frozenset[str]], disliked: Sequence[frozenset[str]], up: Counter[str], down: Counter[str]
) -> float:
    """Return the share of (liked, disliked) pairs in the right order, each text scored without itself; ties half."""
    high = [_score(each, _without(up, each), down, len(liked) - 1, len(disliked)) for each in liked]
    low = [_score(each, up, _without(down, each), len(liked), len(disliked) - 1) for each in disliked]
    right = sum((better > worse) + (better == worse) / 2 for better in high for worse in low)
    return right / (len(high) * len(low))


def _without(counts: Counter[str], own: frozenset[str]) -> Counter[str]:
    return Counter({feature: counts[feature] - 1 for feature in own}) if own else counts
