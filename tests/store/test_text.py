import string
import unicodedata

import pytest

from bot.store.errors import BadCharacters, TooLong, TooShort
from bot.store.text import MAX_CHARACTERS, clean, normalise

SAME = [
    ["Don't panic!", "dont panic", "DON’T  PANIC", "don´t panic.", "“Don't” panic…", "\tdon`t\npanic"],
    [
        "Why? Because.",
        "why because",
        "WHY -- BECAUSE!!!",
        "why\u00a0because",
        "**why** _because_",
        "~~why~~ ||because||",
    ],
    ["Straße", "STRASSE", "strasse"],
    ["café", "cafe\u0301", "CAFÉ"],
    ["ﬁne", "fine", "ＦＩＮＥ", "f\u200bine", "fi\u00adne", "\ufefffine"],
    ["I ❤️ cats", "i ❤ cats"],
    ["wave 👋🏽", "wave 👋", "wave 👋🏿"],
    ["Ω", "ω", "Ω"],
    ["1 000", "1\u202f000"],
    ["co-op", "co op", "co‐op", "co—op"],
    ["¿Qué?", "qué"],
    ["。。。笑。", "笑"],
]
DIFFERENT = [
    ["C", "C#", "C++"],
    ["1 + 1", "1 1", "1 = 1"],
    ["100", "100%"],
    ["cats 😀", "cats 😭", "cats"],
    ["cafe", "café"],
    ["a b", "ab"],
    ["?!?", "...", "!!"],
    ["$5", "€5", "5"],
    ["笑", "哭"],
    ["new \U0001fae8", "new \U0001fadf", "new"],  # pictures younger than this Python's Unicode tables
]
HOSTILE = ["", " ", "\0", "\ud800", "\udfff\ud800", "\u200b\u200b", "'''", "|||", "\U0010ffff", "﷽", "İ", "ŉ", "ΐ", "́a"]
FROM_TABLES = [text for group in SAME + DIFFERENT for text in group]


@pytest.mark.parametrize("group", SAME, ids=lambda group: group[0])
def test_spellings_of_one_joke_share_a_key(group: list[str]) -> None:
    assert len({normalise(text) for text in group}) == 1


@pytest.mark.parametrize("group", DIFFERENT, ids=lambda group: group[0])
def test_different_jokes_have_different_keys(group: list[str]) -> None:
    assert len({normalise(text) for text in group}) == len(group)


@pytest.mark.parametrize("text", [*FROM_TABLES, *HOSTILE], ids=ascii)
def test_a_key_is_its_own_key_and_can_be_stored(text: str) -> None:
    key = normalise(text)
    assert normalise(key) == key
    assert key == key.strip()
    assert key.encode().decode() == key


def test_every_character_has_a_stable_key() -> None:
    """All of Unicode below the private planes, alone and inside a word."""
    unstable = [
        hex(point)
        for point in range(0x20000)
        for key in [normalise(f"ab{chr(point)}cd {chr(point)}")]
        if normalise(key) != key or any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in key)
    ]
    assert unstable == []


@pytest.mark.parametrize("mark", [c for c in string.punctuation if c not in "#$%&+<=>@"])
def test_ascii_punctuation_does_not_make_another_joke(mark: str) -> None:
    assert normalise(f"{mark}Knock knock{mark} {mark}") == "knock knock"


def test_cleaning_trims_and_keeps_what_was_typed() -> None:
    assert clean("  “Don’t\r\nPANIC!” 👋🏽\t\n") == "“Don’t\nPANIC!” 👋🏽"


def test_the_limits_are_exact() -> None:
    assert clean("abc") == "abc"
    assert clean(" " + "x" * MAX_CHARACTERS + " ") == "x" * MAX_CHARACTERS
    with pytest.raises(TooShort, match="A joke needs at least 3 characters that can be seen"):
        clean(" ab ")
    with pytest.raises(TooLong, match="This joke has 1,001 characters; the most is 1,000"):
        clean("x" * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize(
    "text", ["", "   ", "\u200b\u200b\u200b\u200b", "\u3000 \n\n\n", "\u2060\u2060\ufe0f"], ids=ascii
)
def test_a_joke_of_nothing_to_see_is_too_short(text: str) -> None:
    with pytest.raises(TooShort):
        clean(text)


@pytest.mark.parametrize("text", ["a joke\0", "half \ud83d a pair", "\x1b[31mred", "bell\x07"], ids=ascii)
def test_characters_that_cannot_be_stored_are_refused(text: str) -> None:
    with pytest.raises(BadCharacters, match="Type it again as plain text"):
        clean(text)
