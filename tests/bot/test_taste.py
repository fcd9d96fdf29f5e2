"""A server's taste: learned from votes, asked only where it knows something."""

import random

import pytest

from bot.taste import MIN_OF_EACH, MIN_SURENESS, features, learn

ANIMALS = ["duck", "cat", "cow", "bee", "owl", "pig", "hen", "fox", "bat", "emu", "ant", "yak"]


def votes_for_questions(n: int = 12) -> list[tuple[str, int]]:
    return [
        *((f"Why did the {animal} cross the road?", 2) for animal in ANIMALS[:n]),
        *((f"Buy a {animal} today, only five dollars.", -1) for animal in ANIMALS[:n]),
    ]


def test_it_prefers_what_people_liked_in_texts_it_has_not_seen() -> None:
    taste = learn(votes_for_questions())
    assert taste is not None
    assert taste.sureness > 0.95
    texts = ["Buy a zebra today.", "", "Why did the zebra cross the street?", "Zebras."]
    assert taste.best(texts) == 2
    assert taste.best(["", "Buy it today."]) == 1, "something is better than nothing"


def test_few_votes_say_nothing() -> None:
    assert learn(votes_for_questions(MIN_OF_EACH)) is not None
    assert learn(votes_for_questions(MIN_OF_EACH - 1)) is None
    assert learn([]) is None
    assert learn([(f"Joke {i}.", 0) for i in range(100)]) is None, "as many for as against it"


@pytest.mark.parametrize("seed", range(8))
def test_votes_without_a_pattern_are_not_taken_for_one(seed: int) -> None:
    luck = random.Random(seed)
    words = [f"word{i}" for i in range(60)]
    voted = [(" ".join(luck.sample(words, 8)), luck.choice([1, -1])) for _ in range(80)]
    assert learn(voted) is None


def test_a_text_is_judged_by_others_and_never_by_its_own_vote() -> None:
    voted = [(f"only here {i} and {i + 500}", 1 if i % 2 else -1) for i in range(60)]
    assert learn(voted) is None, "each text's own words would tell how it was voted on"


def test_features_are_words_pairs_and_a_question() -> None:
    assert features("Why, DUCK?") == {"why", "duck", "why duck", "?"}
    assert MIN_SURENESS > 0.5
