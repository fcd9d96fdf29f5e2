"""What counts as a joke's text, and when two texts are the same joke. Pure functions.

"  “Don’t PANIC!”  "   ──clean──▶   “Don’t PANIC!”   ──normalise──▶   dont panic
"""

import unicodedata

from bot.store.errors import BadCharacters, TooLong, TooShort

MIN_CHARACTERS = 3
MAX_CHARACTERS = 1000

_APOSTROPHES = dict.fromkeys(map(ord, "'’‘ʼ´`＇"))  # dropped, not spaced: "dont" is "don't"
_MARKDOWN = frozenset("~|")  # symbols to Unicode, but formatting to Discord
_MEANINGFUL = frozenset("#%&@")  # punctuation to Unicode, but "C#" is not "C"
_INVISIBLE = frozenset(("Cf", "Cs", "Sk"))  # zero-width marks, half pairs, skin tones
_BLANK = ("Z", "P", "Cc")  # beginnings of the categories: separators, punctuation, controls


def clean(text: str) -> str:
    """Return the text as it is kept: outer blanks and CR removed; raises TooShort, TooLong or BadCharacters."""
    return clean_and_key(text)[0]


def clean_and_key(text: str) -> tuple[str, str]:
    """Return the text as `clean` does, and its key as `normalise` does, for the price of one."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        raise BadCharacters
    if len(text) > MAX_CHARACTERS:
        raise TooLong(len(text), MAX_CHARACTERS)
    if len(text) < MIN_CHARACTERS or not (key := normalise(text)):
        raise TooShort(MIN_CHARACTERS)
    return text, key


def normalise(text: str) -> str:
    """Return the key under which a joke is the same joke: case, width, accents' spelling, punctuation and blanks aside.

    Idempotent, and defined for every str. A text of punctuation alone keeps it, so that "?!?" is not "...".
    """
    if text.isascii() and (words := text.translate(_ASCII).split()):
        return " ".join(words)
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    text = unicodedata.normalize("NFKC", text.casefold()).translate(_APOSTROPHES)  # ŉ folds to ʼn
    shown = "".join(c for c in text if not _is_invisible(c))
    words = "".join(" " if _is_blank(c) else c for c in shown).split()
    return " ".join(words or shown.split())


def _is_invisible(character: str) -> bool:
    is_variation_selector = "\ufe00" <= character <= "\ufe0f"
    return is_variation_selector or unicodedata.category(character) in _INVISIBLE


def _is_blank(character: str) -> bool:
    if character in _MARKDOWN:
        return True
    return character not in _MEANINGFUL and unicodedata.category(character).startswith(_BLANK)


def _ascii_table() -> dict[int, str | None]:
    """What the steps of `normalise` make of each ASCII character; most jokes need no more than this."""
    table: dict[int, str | None] = {}
    for character in map(chr, range(128)):
        is_dropped = ord(character) in _APOSTROPHES or _is_invisible(character)
        table[ord(character)] = None if is_dropped else " " if _is_blank(character) else character.lower()
    return table


_ASCII = _ascii_table()
