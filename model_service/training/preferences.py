"""Reads files of preferences and divides them: what is trained on, what is held out. No torch here.

    {"prompt": "JOKE:", "chosen": " A better joke.", "rejected": " A worse one."}

A pair's side depends on the hash of its chosen text alone, as a joke's does. A pair to train on shares no text with
one that is held out; those that would are left out.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from model_service.errors import RequestRefused
from model_service.training import examples
from model_service.training.examples import HELD_OUT_SHARE, MIN_HELD_OUT, MIN_TRAIN, normalise


@dataclass(frozen=True, slots=True)
class Preferred:
    """One line of a `dpo` file."""

    prompt: str
    chosen: str
    rejected: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class PreferredSplit:
    """Where each pair goes. Left out are duplicates, contradictions, and what shares a text with the other side."""

    train: list[Preferred]
    held_out: list[Preferred]
    num_left_out: int


def read_preferred(content: bytes) -> list[Preferred]:
    """Read a `dpo` file that was checked when it was uploaded."""
    lines = (json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip())
    return [
        Preferred(line["prompt"], line["chosen"], line["rejected"], None if line.get("id") is None else str(line["id"]))
        for line in lines
    ]


def fingerprint(row: Preferred) -> str:
    """Return the SHA-256 of the normalised chosen text, in hex."""
    return examples.fingerprint(examples.Row(row.prompt, row.chosen))


def split_preferred(rows: Sequence[Preferred], validation: Sequence[Preferred] | None = None) -> PreferredSplit:
    """Divide pairs. A validation file is the held-out part. Raises RequestRefused with the numbers if there are few."""
    given = [*(validation or ()), *rows]
    meant = {_texts(row) for row in given}
    clear = [row for row in given if _texts(row)[::-1] not in meant]  # none that is preferred both ways, or to itself
    unique = {_texts(row): row for row in reversed(clear)}  # the first of each
    held = {_texts(row) for row in validation} if validation is not None else set(filter(_is_held_out, unique))
    held_out = sorted((unique[pair] for pair in held & unique.keys()), key=fingerprint)
    seen = {text for row in held_out for text in _texts(row)}
    train = [
        unique[pair] for pair in dict.fromkeys(map(_texts, clear)) if pair not in held and not seen.intersection(pair)
    ]
    left_out = len(given) - len(train) - len(held_out)
    if sentence := too_few(len(train), len(held_out), left_out):
        raise RequestRefused(sentence, param="training_file", code="too_few_examples")
    return PreferredSplit(train, held_out, left_out)


def too_few(num_train: int, num_held_out: int, num_left_out: int) -> str | None:
    """Return a sentence with the numbers where there are too few pairs to train and judge; else None."""
    if num_train >= MIN_TRAIN and num_held_out >= MIN_HELD_OUT:
        return None
    left_out = f" ({num_left_out} more were left out: twins, contradictions or too long)" if num_left_out else ""
    missing = max((MIN_TRAIN - num_train) / (1 - HELD_OUT_SHARE), (MIN_HELD_OUT - num_held_out) / HELD_OUT_SHARE)
    return (
        f"There are {num_train} pairs of answers to train on and {num_held_out} held out to judge by{left_out};"
        f" at least {MIN_TRAIN} and {MIN_HELD_OUT} are needed. About {math.ceil(missing)} more pairs will do."
    )


def _texts(row: Preferred) -> tuple[str, str]:
    return normalise(row.chosen), normalise(row.rejected)


def _is_held_out(pair: tuple[str, str]) -> bool:
    return examples.is_held_out(examples.Row("", pair[0]))
