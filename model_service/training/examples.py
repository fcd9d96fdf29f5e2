"""Reads training files and divides them: what is trained on, what is held out. No torch here.

    upload ─ parse (a broken line refuses the file) ─ Rows ─ split ─ train | held_out | duplicates

A row's side depends on the hash of its normalised text alone, so it never moves as the collection
grows, and two spellings of one joke cannot stand on both sides.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Shape = Literal["supervised", "classify", "dpo"]
FIELDS: dict[Shape, tuple[str, ...]] = {
    "supervised": ("prompt", "completion"),
    "classify": ("text", "label"),
    "dpo": ("prompt", "chosen", "rejected"),
}
MAY_BE_EMPTY = {"prompt"}
HELD_OUT_SHARE = 0.25  # of 100 jokes about 25, so that the gate's 20 are there early
MIN_TRAIN, MIN_HELD_OUT = 50, 20
_APOSTROPHES = frozenset("'’‘ʼ´`＇")
_JOINERS = frozenset("\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f")  # marks by category, but nobody sees them
_NO_LETTERS = {code: None for code in range(128) if not chr(code).isalnum()}


class BrokenFile(ValueError):
    """A training file cannot be used; the message names the line and says what is expected there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a `supervised` file."""

    prompt: str
    completion: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a training file holds."""

    shape: Shape
    num_rows: int


@dataclass(frozen=True, slots=True)
class Split:
    """Where each row of a job goes. Duplicates are in neither part."""

    train: list[Row]
    held_out: list[Row]
    num_duplicates: int


def check(content: bytes) -> Summary:
    """Check a whole upload. Raises BrokenFile at the first line that does not fit."""
    shape: Shape | None = None
    num_rows = 0
    for number, line in _lines(content):
        found = _shape_of(number, line)
        if shape is not None and found != shape:
            raise BrokenFile(
                f"Line {number} has the fields {_names(FIELDS[found])}, but the lines before it have"
                f" {_names(FIELDS[shape])}. A file holds one shape."
            )
        shape, num_rows = found, num_rows + 1
    if shape is None:
        raise BrokenFile('The file is empty. It needs one JSON object a line, like {"prompt": "JOKE:", …}.')
    return Summary(shape, num_rows)


def read_rows(content: bytes) -> list[Row]:
    """Read a `supervised` file that `check` has passed. Raises BrokenFile as `check` does."""
    return [
        Row(line["prompt"], line["completion"], None if line.get("id") is None else str(line["id"]))
        for _, line in _lines(content)
    ]


def _lines(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for each line that is not blank."""
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise BrokenFile(f"Line {number} is not UTF-8 text.") from None
        except (ValueError, RecursionError):
            raise BrokenFile(f"Line {number} is not JSON. Each line must be one whole JSON object.") from None
        if not isinstance(value, dict):
            raise BrokenFile(f"Line {number} is not a JSON object like {{...}}.")
        yield number, value


def _shape_of(number: int, line: dict[str, Any]) -> Shape:
    """Return the one shape whose fields this line has, after checking their values."""
    names = set(line) - {"id"}
    shape = next((s for s in FIELDS if set(FIELDS[s]) == names), None)
    if shape is None:
        raise BrokenFile(
            f"Line {number} has the fields {_names(sorted(line)) or 'none'}. A line has"
            " prompt and completion, or text and label, or prompt, chosen and rejected; each may have an id."
        )
    for name in FIELDS[shape]:
        _check_text(number, name, line[name])
    if isinstance(line.get("id"), bool) or not isinstance(line.get("id"), str | int | None):
        raise BrokenFile(f"Line {number}: id must be a text or a whole number.")
    if isinstance(line.get("id"), str):
        _check_text(number, "id", line["id"])
    return shape


def _check_text(number: int, name: str, value: object) -> None:
    if not isinstance(value, str):
        raise BrokenFile(f"Line {number}: {name} must be a text.")
    if not value.strip() and name not in MAY_BE_EMPTY:
        raise BrokenFile(f"Line {number}: {name} is empty.")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise BrokenFile(f"Line {number}: {name} holds half a surrogate pair, which is not text.")


def _names(names: Iterable[str]) -> str:
    return ", ".join(ascii(name)[1:-1][:40] for name in names)


def normalise(text: str) -> str:
    """Reduce a text to what makes it the same joke: letters and digits, case folded, without spaces or signs.

    Two spellings of one joke come out the same, whatever their width, case, accents' spelling, punctuation, blanks and
    emoji's colour; the hash of this decides for ever on which side of the split a joke stands.
    """
    if text.isascii() and (kept := text.lower().translate(_NO_LETTERS)):
        return kept
    text = unicodedata.normalize("NFKC", "".join(c for c in text if c not in _APOSTROPHES))
    text = unicodedata.normalize("NFKC", text.casefold().replace("i\u0307", "i").replace("ı", "i"))  # İ and ı
    text = "".join(c for c in text if c not in _APOSTROPHES and not _is_unseen(c))  # ŉ folds to ʼn
    return "".join(_letters(text)) or "".join(text.split())  # a joke of emoji alone is still a joke


def _letters(text: str) -> Iterator[str]:
    """Yield letters, digits and the marks on them; a mark on nothing is a sign (´ is a blank with an accent)."""
    has_base = False
    for character in text:
        kind = unicodedata.category(character)[0]
        has_base = kind in "LN" or (has_base and kind == "M")
        if has_base:
            yield character


def _is_unseen(character: str) -> bool:
    """Say whether a character only steers how others look: ❤ is ❤ in colour and without."""
    is_variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return is_variation or character in _JOINERS or unicodedata.category(character) in ("Cc", "Cf")


def fingerprint(row: Row) -> str:
    """Return the SHA-256 of the normalised completion, in hex: two rows with the same one are the same joke."""
    return hashlib.sha256(normalise(row.completion).encode()).hexdigest()


def is_held_out(row: Row, share: float = HELD_OUT_SHARE) -> bool:
    """Say on which side a row stands; the same text stands there for ever."""
    return _is_below(fingerprint(row), share)


def _is_below(mark: str, share: float) -> bool:
    return int(mark[:16], 16) < share * 2**64


def split(rows: Sequence[Row], validation: Sequence[Row] | None = None) -> Split:
    """Divide rows. With a validation file, that file is the held-out part and its jokes leave the training part."""
    seen: set[str] = set()
    if validation is None:
        unique = _first_of_each(rows, seen)
        train = [row for mark, row in unique if not _is_below(mark, HELD_OUT_SHARE)]
        held_out = [(mark, row) for mark, row in unique if _is_below(mark, HELD_OUT_SHARE)]
    else:
        held_out = _first_of_each(validation, seen)
        train = [row for _, row in _first_of_each(rows, seen)]
    held_out.sort(key=lambda pair: pair[0])  # says nothing about the jokes: the gate deals them into halves by it
    given = len(rows) + len(validation or ())
    return Split(train, [row for _, row in held_out], given - len(train) - len(held_out))


def _first_of_each(rows: Sequence[Row], seen: set[str]) -> list[tuple[str, Row]]:
    """Keep the first row of each joke that is not in `seen`, with its mark; what is kept is added to `seen`."""
    kept = []
    for row in rows:
        if (mark := fingerprint(row)) not in seen:
            seen.add(mark)
            kept.append((mark, row))
    return kept


def too_few(num_train: int, num_held_out: int, num_left_out: int) -> str | None:
    """Return a sentence with the numbers where there are too few examples to train and judge; else None."""
    if num_train >= MIN_TRAIN and num_held_out >= MIN_HELD_OUT:
        return None
    left_out = f" ({num_left_out} more were left out: duplicates or too long)" if num_left_out else ""
    missing = max((MIN_TRAIN - num_train) / (1 - HELD_OUT_SHARE), (MIN_HELD_OUT - num_held_out) / HELD_OUT_SHARE)
    return (
        f"There are {num_train} jokes to train on and {num_held_out} held out to judge by{left_out};"
        f" at least {MIN_TRAIN} and {MIN_HELD_OUT} are needed. About {math.ceil(missing)} more different jokes will do."
    )
