"""What a model is asked, as text: the training format for our own models, examples for foreign ones.

Our own models (`jokes-mini`, and `ft:…` tuned from it) were trained on `JOKE: {joke}` and `JOKE about {topic}: {joke}`,
so that is the whole prompt. A base model such as gpt2 has never seen it and is shown a few jokes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

OWN_PREFIXES = ("jokes-mini", "ft:")

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("onions", "Why do onions make terrible comedians? The whole room is in tears before the punchline."),
    ("goldfish", "Why did the goldfish refuse to play chess? It kept forgetting it was winning."),
    ("laundry", "Laundry is the only subscription I never signed up for and cannot cancel."),
    ("moderators", "What is a moderator's favourite season? Slow mode."),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text to send, and the strings at which the answer ends."""

    text: str
    stop: tuple[str, ...]


def is_own(model_id: str) -> bool:
    """Say whether a model was trained on our joke format."""
    return model_id.startswith(OWN_PREFIXES)


def opening(topic: str | None = None) -> str:
    """Return how a joke begins in the format that our models are trained on."""
    return f"JOKE about {topic}:" if topic else "JOKE:"


def joke_prompt(model_id: str, topic: str | None = None) -> Prompt:
    """Build the prompt for one joke; `topic` is a few words, or nothing."""
    if is_own(model_id):
        return Prompt(opening(topic), ("\nJOKE",))
    lines = [f"JOKE about {about}: {joke}" if topic else f"JOKE: {joke}" for about, joke in EXAMPLES]
    return Prompt("\n".join([*lines, opening(topic)]), ("\n",))


def clean_topic(topic: str | None) -> str | None:
    """Take "about cats", "  Cats?" or "a joke about cats" down to the topic; nothing left is no topic."""
    words = " ".join((topic or "").split()).split(" ")
    lowered = [word.lower() for word in words]
    for opening in (["a", "joke", "about"], ["joke", "about"], ["about"]):
        if lowered[: len(opening)] == opening:
            words = words[len(opening) :]
            break
    cleaned = " ".join(words).strip(" .!?:,;")
    return cleaned or None


class Preference(Protocol):
    """Two texts to one prompt, one of which people liked better."""

    @property
    def prompt(self) -> str: ...  # noqa: D102
    @property
    def chosen(self) -> str: ...  # noqa: D102
    @property
    def rejected(self) -> str: ...  # noqa: D102
    @property
    def chosen_id(self) -> int: ...  # noqa: D102
    @property
    def rejected_id(self) -> int: ...  # noqa: D102


def preference_rows(pairs: Sequence[Preference]) -> list[dict[str, str]]:
    """Turn preferences into the rows of a file to learn them from; lineage keeps both ids."""
    return [
        {
            "id": f"{pair.chosen_id}-{pair.rejected_id}",
            "prompt": pair.prompt,
            "chosen": f" {pair.chosen.strip()}",
            "rejected": f" {pair.rejected.strip()}",
        }
        for pair in pairs
    ]


def training_rows(jokes: Sequence[tuple[int, str]]) -> list[dict[str, str]]:
    """Turn (id, text) pairs into the rows of a fine-tuning file; lineage keeps the id."""
    return [{"id": str(joke_id), "prompt": "JOKE:", "completion": f" {text.strip()}"} for joke_id, text in jokes]
