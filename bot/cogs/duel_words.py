"""A blind duel as a message: two answers called A and B, and in the end who was who.

Until the end the text does not say which model is which, nor how the votes stand.
"""

from bot.cogs.model_words import code
from bot.store import Duel, Record
from bot.ui.ballot import CHOICES
from bot.ui.text import inline, sanitise

TEXT_LIMIT = 600  # characters of an answer that are shown
WITHDRAWN = "(withdrawn: somebody took back what this model had learned from)"


def opened(topic: str, texts: tuple[str, str]) -> str:
    """Show both answers and ask which is funnier."""
    return (
        f"🥊 **Blind duel**{_about(topic)}: two models, one question. Which is funnier?\n{_answers(texts, ('A', 'B'))}"
    )


def running(duel: Duel, num_votes: int) -> str:
    """The open duel, with how many have voted, but not for what."""
    votes = "1 vote" if num_votes == 1 else f"{num_votes} votes"
    until = f"Ends <t:{int(duel.ends_at)}:R>, or with vote {duel.votes_wanted}."
    return f"{opened(duel.topic, duel.texts)}\n-# {votes} so far. {until} Until then you can change yours."


def ended(duel: Duel, record: Record) -> str:
    """Who was who, how many votes each got, and how the two did so far. `record` is the first model's."""
    assert duel.votes is not None
    a, b = duel.votes
    verdict = (
        "Nobody voted."
        if a == b == 0
        else f"A draw, {a} to {b}."
        if a == b
        else f"**{'A' if a > b else 'B'} wins**, {max(a, b)} to {min(a, b)}."
    )
    who = tuple(f"{choice} was {code(model)}" for choice, model in zip(CHOICES, duel.models, strict=True))
    so_far = (
        f"-# So far here {code(duel.models[0])} won {record.won}, lost {record.lost} and drew {record.drawn}"
        f" against {code(duel.models[1])}."
    )
    return f"🥊 **Duel**{_about(duel.topic)}: {verdict}\n{_answers(duel.texts, (who[0], who[1]))}\n{so_far}"


def _answers(texts: tuple[str, str], names: tuple[str, str]) -> str:
    parts = []
    for text, name in zip(texts, names, strict=True):
        shown = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"
        quoted = "\n".join(f"> {line}" for line in sanitise(shown or WITHDRAWN).split("\n"))
        parts.append(f"**{name}**\n{quoted}")
    return "\n".join(parts)


def _about(topic: str) -> str:
    return f" about {inline(topic, 100)}" if topic else ""
