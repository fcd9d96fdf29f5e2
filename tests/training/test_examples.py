"""Training files are checked line by line, and every joke has its side for ever. No torch here."""

import functools
import random
import unicodedata
from collections.abc import Callable

import pytest

from bot.store.text import normalise as clean_key
from model_service.training.examples import (
    BrokenFile,
    Row,
    Summary,
    check,
    fingerprint,
    is_held_out,
    normalise,
    read_rows,
    split,
    too_few,
)
from tests.support.training_jobs import jsonl, make_rows

GOOD = b'{"prompt": "JOKE:", "completion": " ha"}\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, Summary("supervised", 1)),
        (b"\xef\xbb\xbf" + GOOD, Summary("supervised", 1)),
        (
            b'{"id": 7, "prompt": "", "completion": "ha"}\r\n\n{"prompt": "a", "completion": "b"}',
            Summary("supervised", 2),
        ),
        (b'{"text": "great", "label": "positive", "id": "x"}', Summary("classify", 1)),
        (b'{"prompt": "JOKE:", "chosen": "a", "rejected": "b"}', Summary("dpo", 1)),
    ],
)
def test_each_shape_is_recognised(content: bytes, expected: Summary) -> None:
    assert check(content) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not json", "Line 2 is not JSON"),
        (b'{"prompt": "a", "completion": "b"', "Line 2 is not JSON"),
        (b"[" * 100_000, "Line 2 is not JSON"),
        (b"[1]", "Line 2 is not a JSON object"),
        (b"\xff\xfe", "Line 2 is not UTF-8"),
        (b'{"prompt": "a"}', "Line 2 has the fields prompt."),
        (b"{}", "Line 2 has the fields none."),
        (b'{"prompt": "a", "completion": "b", "extra": 1}', "extra"),
        (b'{"prompt": "a", "completion": 3}', "Line 2: completion must be a text"),
        (b'{"prompt": "a", "completion": "  "}', "Line 2: completion is empty"),
        (b'{"prompt": "a", "completion": "\\ud800"}', "Line 2: completion holds half a surrogate pair"),
        (b'{"prompt": "a", "completion": "b", "id": {}}', "Line 2: id must be"),
        (b'{"prompt": "a", "completion": "b", "id": true}', "Line 2: id must be"),
        (b'{"text": "a", "label": "b"}', "A file holds one shape"),
    ],
)
def test_a_broken_line_refuses_the_file_with_its_number(line: bytes, words: str) -> None:
    with pytest.raises(BrokenFile) as raised:
        check(GOOD + line + b"\n" + GOOD)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_an_empty_file_is_refused(content: bytes) -> None:
    with pytest.raises(BrokenFile, match="empty"):
        check(content)


def test_ids_come_back_as_texts_and_may_be_absent() -> None:
    rows = read_rows(b'{"id": 7, "prompt": "", "completion": "ha"}\n{"prompt": "a", "completion": "b"}')
    assert rows == [Row("", "ha", "7"), Row("a", "b", None)]


@pytest.mark.parametrize(
    "spelling", ["A duck walks in.", " a  DUCK walks in!!! ", "a duck—walks in", "Ａ duck walks in"]
)
def test_spellings_of_one_joke_are_one_joke(spelling: str) -> None:
    assert normalise(spelling) == normalise("A duck walks in")
    assert fingerprint(Row("JOKE:", spelling)) == fingerprint(Row("JOKE about ducks:", "A duck walks in"))


def test_jokes_of_signs_alone_stay_different() -> None:
    signs = ["😀", "😱", "❤️", "☀️", "👋🏽👋", "?!?", "..."]
    assert len({normalise(sign) for sign in signs}) == len(signs)


@functools.cache
def every_character() -> dict[str, str]:
    """Every character that has spellings, in a word: all but the thousands of ideographs and syllables alike."""
    points = (*range(0x3400), *range(0xA000, 0xA100), *range(0xF900, 0x10100), *range(0x1D400, 0x1FB00), 0xE0101)
    words = [f"ab{chr(point)}cd" for point in points if unicodedata.category(chr(point)) not in ("Cs", "Co", "Cn")]
    return {word: normalise(word) for word in words}


@pytest.mark.parametrize(
    "spelled",
    [
        str.upper,
        str.lower,
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: unicodedata.normalize("NFC", text),
        lambda text: unicodedata.normalize("NFKD", text),
        normalise,
        clean_key,
    ],
    ids=["upper", "lower", "NFD", "NFC", "NFKD", "twice", "as the collection's key"],
)
def test_no_character_has_two_sides_by_how_it_is_spelled(spelled: Callable[[str], str]) -> None:
    """The collection keeps spellings with one key once; so they must be one joke here, too."""
    split_apart = [word for word, key in every_character().items() if normalise(spelled(word)) != key]
    assert split_apart == []


NOISE = [*" \t\n\u00a0\u2003\u200b\u200d\ufeff\u00ad\ufe0f.,;:!?-–—…\"“”„«»()[]*_~|`'’´^", "\u202e", "🏽", "😀"]
JOKES = [
    "Why did the duck cross the road? It was the chicken's day off.",
    "Der Bär fragt: „Wo ist der Käse?“ – Straße 7, ganz groß.",
    "Πού πάει ο γάιδαρος; Στον ΐδιο δρόμο.",
    "ﬁve ﬂies; №4 flew ½ as far",
    "為什麼雞過馬路？因為它想",
    "L’été, c’est fini. L'hiver ı İ ŉ ǰ ß",
]


def rewritten(joke: str, chance: random.Random) -> str:
    """The joke with other case, other composition, and signs and blanks between its characters."""
    form = chance.choice(["NFC", "NFD", "NFKC", "NFKD"])
    turned = [chance.choice([str.upper, str.lower, str.title, str])(word) for word in joke.split()]
    words = [unicodedata.normalize(form, word) for word in turned]
    return "".join(word + chance.choice(NOISE) + chance.choice(NOISE) for word in words)


@pytest.mark.parametrize("joke", JOKES)
def test_however_a_joke_is_rewritten_it_is_the_same_joke_on_the_same_side(joke: str) -> None:
    chance = random.Random(joke)
    first = Row("JOKE:", joke)
    for _ in range(300):
        again = Row("JOKE about it:", rewritten(joke, chance))
        assert fingerprint(again) == fingerprint(first), ascii(again.completion)
        assert is_held_out(again) == is_held_out(first)


def test_no_order_and_no_mixture_of_spellings_lets_a_joke_stand_on_both_sides() -> None:
    chance = random.Random(7)
    rows = make_rows(100)
    spellings = [Row(r.prompt, rewritten(r.completion, chance), f"{r.id}-{n}") for r in rows for n in range(3)]
    for _ in range(5):
        chance.shuffle(spellings)
        parts = split(spellings)
        sides = [{str(row.id).rpartition("-")[0] for row in side} for side in (parts.train, parts.held_out)]
        assert not sides[0] & sides[1]
        assert sum(map(len, sides)) == 100
        assert parts.num_duplicates == 200
        assert sides[1] == {str(row.id) for row in split(rows).held_out}


def test_about_a_quarter_is_held_out() -> None:
    held_out = sum(is_held_out(Row("", f"A joke about {n} ducks")) for n in range(4000))
    assert 900 < held_out < 1100  # 1,000 give or take 27


def test_a_joke_stays_on_its_side_as_the_collection_grows() -> None:
    rows = make_rows(100)
    small, large = split(rows[:60]), split(rows)
    assert {row.id for row in small.held_out} <= {row.id for row in large.held_out}
    assert {row.id for row in small.train} <= {row.id for row in large.train}
    assert 15 <= len(large.held_out) <= 35


def test_the_side_of_a_joke_is_the_same_in_every_version() -> None:
    held_out = [i for i in range(24) if is_held_out(Row("JOKE:", f" Joke number {i}"))]
    assert held_out == [2, 6, 13, 16, 18]  # as on the first day: changing this lets models train on what judged them


def test_duplicates_are_counted_and_never_straddle() -> None:
    rows = make_rows(80)
    parts = split([*rows, *(Row("JOKE about it:", row.completion.upper()) for row in rows)])
    assert parts.num_duplicates == 80
    assert not {fingerprint(row) for row in parts.train} & {fingerprint(row) for row in parts.held_out}


def test_a_validation_file_is_the_held_out_part() -> None:
    rows = make_rows(100)
    parts = split(rows, validation=rows[:30])
    assert {row.id for row in parts.held_out} == {row.id for row in rows[:30]}
    assert {row.id for row in parts.train} == {row.id for row in rows[30:]}
    assert parts.num_duplicates == 30


@pytest.mark.parametrize(("train", "held_out", "enough"), [(50, 20, True), (49, 20, False), (50, 19, False)])
def test_fifty_to_train_on_and_twenty_held_out_are_enough(train: int, held_out: int, enough: bool) -> None:
    assert (too_few(train, held_out, 0) is None) == enough


def test_too_few_says_the_numbers() -> None:
    sentence = too_few(30, 8, 2)
    assert sentence is not None
    for number in ("30", "8", "2 more were left out", "50", "20", "About 48 more"):
        assert number in sentence


def test_jsonl_of_the_builders_is_a_good_file() -> None:
    assert check(jsonl(make_rows(5))) == Summary("supervised", 5)
