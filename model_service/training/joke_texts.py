"""The texts `jokes-mini` is trained on: jokes, each in one of its three forms, at positions all over the context.

JOKE: {joke}            most of them
JOKE about cats: {joke} some, with a word of the joke as its topic
{joke}                  some, so that any text can be continued
"""

import csv
import gzip
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model_service.training.dataset import Encoded, Example

PROMPT = "JOKE:"


@dataclass(frozen=True, slots=True)
class Forms:
    """How often an example takes which form."""

    topic: float = 0.25  # "JOKE about cats: ..."
    bare: float = 0.15  # no prompt, for `!complete`
    shift: float = 0.15  # away from position 0, so that all positions are trained


def read_jokes(path: Path, blocked: re.Pattern[str] | None = None) -> list[str]:
    """Read the `text` column of a gzipped CSV, without rows that hold a blocked word."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        texts = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    return [text for text in texts if blocked is None or not blocked.search(text)]


def word_filter(path: Path) -> re.Pattern[str]:
    """Compile a word list, one word or phrase a line, into one case-blind whole-word pattern."""
    words = [re.escape(line.strip()) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)


class TopicPicker:
    """Names what a joke is about: one of its words that is neither common nor rare."""

    _WORD = re.compile(r"[A-Za-z][a-z]{3,}")

    def __init__(self, texts: list[str]) -> None:
        counts = Counter(word for text in texts for word in set(self._words(text)))
        self._topics = {word for word, n in counts.items() if 5 <= n <= len(texts) // 150}

    def _words(self, text: str) -> list[str]:
        return [word.lower() for word in self._WORD.findall(text)]

    def pick(self, text: str, rng: random.Random) -> str | None:
        """Return a topic of `text`, or None where every word is too common or too rare."""
        known = sorted({word for word in self._words(text) if word in self._topics})
        return rng.choice(known) if known else None


def epoch_examples(texts: list[str], topics: TopicPicker, forms: Forms, seed: int, epoch: int) -> list[Example]:
    """Give each joke one of its three forms: plain, about a topic, or bare."""
    rng = random.Random(f"{seed}-forms-{epoch}")
    examples = []
    for text in texts:
        draw = rng.random()
        topic = topics.pick(text, rng) if draw < forms.topic else None
        if topic:
            examples.append(Example(f"JOKE about {topic}:", f" {text}"))
        elif draw > 1 - forms.bare:
            examples.append(Example("", text))
        else:
            examples.append(Example(PROMPT, f" {text}"))
    return examples


def shifted(encoded: Iterable[Encoded], forms: Forms, context_len: int, seed: int, epoch: int) -> Iterator[Encoded]:
    """Move some examples to later positions; the others start at 0."""
    rng = random.Random(f"{seed}-shift-{epoch}")
    for example in encoded:
        room = context_len - len(example.input_ids)
        if room > 0 and rng.random() < forms.shift:
            yield Encoded(example.input_ids, example.num_prompt, rng.randint(1, room))
        else:
            yield example
