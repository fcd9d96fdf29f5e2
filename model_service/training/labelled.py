"""Reads files of texts with labels, refuses labels that cannot be learned, and divides them. No torch here.

    {"text": "A warm, funny film.", "label": "positive"}      IMDB, SST-2: any labels, two of them at least

A text's side depends on its hash alone, as a joke's does. A text that stands there with two labels is left out.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model_service.errors import RequestRefused
from model_service.training.examples import HELD_OUT_SHARE, MIN_HELD_OUT, MIN_TRAIN, normalise

MAX_LABELS, MAX_LABEL_LEN = 100, 64
MIN_PER_LABEL = 5  # texts to train on


@dataclass(frozen=True, slots=True)
class Labelled:
    """One line of a `classify` file."""

    text: str
    label: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """Where each text goes. What has a twin, or two labels, is in neither part."""

    train: list[Labelled]
    held_out: list[Labelled]
    num_duplicates: int
    num_contradictions: int
    labels: list[str]  # sorted


def read_labelled(content: bytes) -> list[Labelled]:
    """Read a `classify` file that was checked when it was uploaded."""
    lines = (json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip())
    return [
        Labelled(line["text"], line["label"], None if line.get("id") is None else str(line["id"])) for line in lines
    ]


def fingerprint(row: Labelled) -> str:
    """Return the SHA-256 of the normalised text, in hex."""
    return hashlib.sha256(normalise(row.text).encode()).hexdigest()


def split_labelled(rows: Sequence[Labelled], validation: Sequence[Labelled] | None = None) -> LabelledSplit:
    """Divide texts, and check their labels. A validation file is the held-out part. Raises RequestRefused."""
    labels = _labels(rows)
    if strange := sorted({row.label for row in validation or ()} - set(labels)):
        raise _refused(
            f"The validation file has labels that the training file lacks: {_names(strange)}.", "validation_file"
        )
    given = [*(validation or ()), *rows]
    meant: dict[str, set[str]] = {}
    for row in given:
        meant.setdefault(fingerprint(row), set()).add(row.label)
    clear = [row for row in given if len(meant[fingerprint(row)]) == 1]
    unique = {fingerprint(row): row for row in reversed(clear)}  # the first of each
    held = {fingerprint(row) for row in validation} if validation is not None else set(filter(_is_held_out, unique))
    held_out = [unique[mark] for mark in sorted(held & unique.keys())]
    train = [unique[mark] for mark in dict.fromkeys(map(fingerprint, clear)) if mark not in held]
    _check_numbers(train, held_out, labels)
    return LabelledSplit(train, held_out, len(clear) - len(unique), len(given) - len(clear), labels)


def label_order(labels: Sequence[str], config: Mapping[str, object]) -> tuple[list[str], bool]:
    """Return the labels in label-id order, and whether they are those the base knows: its head is kept then."""
    names = config.get("id2label")
    own = [str(name) for name in names.values()] if isinstance(names, dict) else []
    if "ForSequenceClassification" in str(config.get("architectures")) and sorted(own) == sorted(labels):
        return own, True
    return sorted(labels), False


def _is_held_out(mark: str) -> bool:
    return int(mark[:16], 16) < HELD_OUT_SHARE * 2**64


def _labels(rows: Iterable[Labelled]) -> list[str]:
    labels = sorted({row.label for row in rows})
    if len(labels) < 2:
        raise _refused(f"Every text has the label {labels[0]!a}; at least two different labels are needed.")
    if len(labels) > MAX_LABELS:
        raise _refused(
            f"There are {len(labels)} different labels, at most {MAX_LABELS} are allowed. Is label the right column?"
        )
    if long := next((label for label in labels if len(label) > MAX_LABEL_LEN), None):
        raise _refused(f"The label {long[:40]!a}... has {len(long)} characters; at most {MAX_LABEL_LEN} are allowed.")
    alike: dict[str, str] = {}
    for label in labels:
        twin = alike.setdefault(label.strip().casefold(), label)
        if twin != label:
            raise _refused(f"The labels {twin!a} and {label!a} differ in spelling only. Write them alike.")
    return labels


def _check_numbers(train: Sequence[Labelled], held_out: Sequence[Labelled], labels: Sequence[str]) -> None:
    if len(train) < MIN_TRAIN or len(held_out) < MIN_HELD_OUT:
        raise RequestRefused(
            f"There are {len(train)} texts to train on and {len(held_out)} held out to judge by; at least {MIN_TRAIN}"
            f" and {MIN_HELD_OUT} are needed.",
            param="training_file",
            code="too_few_examples",
        )
    counts = Counter(row.label for row in train)
    if rare := [label for label in labels if counts[label] < MIN_PER_LABEL]:
        few = ", ".join(f"{label!a} ({counts[label]})" for label in rare[:5])
        raise RequestRefused(
            f"Too few texts to train on have the label {few}; at least {MIN_PER_LABEL} of each are needed."
            " Add some, or leave these labels out.",
            param="training_file",
            code="too_few_examples",
        )


def _names(labels: Sequence[str]) -> str:
    return ", ".join(f"{label[:40]!a}" for label in labels[:5]) + (", ..." if len(labels) > 5 else "")


def _refused(message: str, param: str = "training_file") -> RequestRefused:
    return RequestRefused(message, param=param, code="invalid_labels")
