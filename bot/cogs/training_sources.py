"""What a fine-tune can learn from: the server's jokes, or the votes on the bot's own. A snapshot goes to the service.

Each row is noted with whose data it holds, so that a person who leaves can be traced to the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bot.cogs import training_words as words
from bot.errors import BadInput
from bot.prompts import preference_rows, training_rows
from bot.store import RowKind, Store

Source = Literal["jokes", "votes"]
SOURCES: tuple[Source, ...] = ("jokes", "votes")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows for the service, and (kind, row id, whose) of each thing they hold. had: what there was, in a sentence."""

    source: Source
    rows: Sequence[Mapping[str, str]]
    lineage: Sequence[tuple[RowKind, int, int | None]]
    had: str


def source_named(named: str) -> Source:
    """Understand what somebody wants to train on. Raises BadInput with what there is."""
    for source in SOURCES:
        if named.strip().lower() == source:
            return source
    raise BadInput(
        "I can train on `jokes` (this server's collection) or on `votes` (👍 and 👎 under my jokes):"
        " `/finetune start votes`."
    )


async def snapshot(store: Store, guild_id: int, source: Source) -> Snapshot:
    """Collect what may train this server's model now. Raises BadInput where there is nothing."""
    found = await (_votes if source == "votes" else _jokes)(store, guild_id)
    if not found.rows:
        raise BadInput(f"There is nothing to train on yet.\n{found.had}")
    return found


async def is_still_there(store: Store, guild_id: int, given: Snapshot) -> bool:
    """Say whether nobody took back anything of a snapshot meanwhile."""
    if given.source == "jokes":
        return set(given.lineage) <= set((await _jokes(store, guild_id)).lineage)
    now = await store.votes.people(answer for _, answer, _ in given.lineage)
    return {(answer, user) for _, answer, user in given.lineage} <= set(now)


async def _jokes(store: Store, guild_id: int) -> Snapshot:
    jokes = await store.jokes.trainable(guild_id)
    return Snapshot(
        "jokes",
        training_rows([(joke.id, joke.text) for joke in jokes]),
        [("joke", joke.id, joke.author_id) for joke in jokes],
        words.jokes_there(await store.jokes.count(guild_id)),
    )


async def _votes(store: Store, guild_id: int) -> Snapshot:
    pairs = await store.votes.preferences(guild_id)
    answers = [answer for pair in pairs for answer in (pair.chosen_id, pair.rejected_id)]
    return Snapshot(
        "votes",
        preference_rows(pairs),
        [("answer", answer, user) for answer, user in await store.votes.people(answers)],
        words.votes_there(await store.votes.count(guild_id)),
    )
