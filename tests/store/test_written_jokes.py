"""The texts written for this project: the starter pack, and the set that forgetting is measured on."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from bot.store.jokes import starter_texts
from bot.store.text import clean, normalise

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "bot/store/starter_jokes.jsonl"
GENERAL = ROOT / "model_service/training/general.jsonl"
WORDLIST = ROOT.parent / "shared/data/wordlists/ldnoobw_en.txt"
PRINTABLE = re.compile(r"[ -~éè]+")


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def word_runs(text: str, length: int = 5) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[n : n + length]) for n in range(len(words) - length + 1)}


def test_the_starter_pack_is_large_and_numbered_in_order() -> None:
    jokes = lines(STARTER)
    assert len(jokes) >= 170
    assert [joke["id"] for joke in jokes] == [f"starter-{n:03d}" for n in range(1, len(jokes) + 1)]
    assert all(set(joke) == {"id", "text", "topic"} for joke in jokes)
    assert starter_texts() == [joke["text"] for joke in jokes]


def test_no_topic_dominates_the_starter_pack() -> None:
    topics = Counter(joke["topic"] for joke in lines(STARTER))
    assert len(topics) >= 12
    assert max(topics.values()) <= sum(topics.values()) * 0.15


@pytest.mark.parametrize("path", [STARTER, GENERAL], ids=lambda path: path.stem)
def test_every_text_is_short_plain_and_clean(path: Path) -> None:
    for line in lines(path):
        text = line["text"]
        assert clean(text) == text
        assert 20 <= len(text) <= 280, line["id"]
        assert PRINTABLE.fullmatch(text), line["id"]
        assert "  " not in text
        assert text.count('"') % 2 == 0, line["id"]
        assert text[-1] in '.?!"', line["id"]


def test_no_text_appears_twice_in_either_file() -> None:
    keys = Counter(normalise(line["text"]) for path in (STARTER, GENERAL) for line in lines(path))
    assert [key for key, count in keys.items() if count > 1] == []


def test_no_two_texts_share_a_long_run_of_words() -> None:
    """A joke told twice in other words would leak from the training part to the held-out part."""
    owners: dict[tuple[str, ...], set[str]] = {}
    for line in [*lines(STARTER), *lines(GENERAL)]:
        for run in word_runs(line["text"]):
            owners.setdefault(run, set()).add(line["id"])
    shared = {run: ids for run, ids in owners.items() if len(ids) > 1}
    assert shared == {}


def test_the_general_set_is_half_jokes_and_half_everyday_text() -> None:
    kinds = Counter(line["id"].rsplit("-", 1)[0] for line in lines(GENERAL))
    assert kinds == {"general-joke": 30, "general-plain": 30}
    assert all(set(line) == {"id", "text"} for line in lines(GENERAL))


def test_no_word_of_the_blocklist_appears() -> None:
    if not WORDLIST.exists():
        pytest.skip("the word list is not part of the project: ../shared/data is absent")
    blocked = {normalise(word) for word in WORDLIST.read_text(encoding="utf-8").splitlines() if word.strip()}
    for line in [*lines(STARTER), *lines(GENERAL)]:
        key = f" {normalise(line['text'])} "
        assert [word for word in blocked if f" {word} " in key] == [], line["id"]
