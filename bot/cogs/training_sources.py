"""What a fine-tune can learn from: the server's jokes, the votes on the bot's own, or the owner's global imports.

A snapshot goes to the service. Each row is noted with whose data it holds, so that a person who leaves can be traced
to the model.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bot.cogs import training_words as words
from bot.errors import BadInput
from bot.prompts import preference_rows, training_rows
from bot.service_client import Adapter, Json
from bot.store import GLOBAL, RowKind, Store

Source = Literal["jokes", "votes", "global"]
SOURCES: tuple[Source, ...] = ("jokes", "votes", "global")
ADAPTERS: tuple[Adapter, ...] = ("lora", "full")


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to train: on what, and an adapter or all weights."""

    source: Source = "jokes"
    adapter: Adapter = "lora"

    @property
    def is_the_owners(self) -> bool:
        """Whether it is for the bot's owner alone: a model for every server, or a whole one's memory."""
        return self.source == "global" or self.adapter == "full"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows for the service, and (kind, row id, whose) of each thing they hold. had: what there was, in a sentence."""

    source: Source
    rows: Sequence[Mapping[str, str]]
    lineage: Sequence[tuple[RowKind, int, int | None]]
    had: str


def wished(*typed: str) -> Wish:
    """Understand what somebody wants, in any order; empty texts are passed over. Raises BadInput with what there is."""
    wish = Wish()
    for word in filter(None, (each.strip().lower() for each in typed)):
        if word in SOURCES:
            wish = replace(wish, source=word)
        elif word in ADAPTERS:
            wish = replace(wish, adapter=word)
        else:
            raise BadInput(
                "I can train on `jokes` (this server's collection) or on `votes` (👍 and 👎 under my jokes):"
                " `/finetune start votes`. My owner can also train on `global` (jokes imported for everybody), and all"
                " weights instead of an adapter: `full`."
            )
    return wish


def wish_of(job: Json) -> Wish:
    """Return what a job was started with."""
    method = job.get("method") or {}
    how = method.get(method.get("type")) or {}
    source: Source = "votes" if words.learns_from_votes(job) else "global" if words.is_for_everybody(job) else "jokes"
    return Wish(source, "full" if how.get("adapter") == "full" else "lora")


async def snapshot(store: Store, guild_id: int, source: Source) -> Snapshot:
    """Collect what may train this server's model now. Raises BadInput where there is nothing."""
    found = await _found(store, guild_id, source)
    if not found.rows:
        raise BadInput(f"There is nothing to train on yet.\n{found.had}")
    return found


async def is_still_there(store: Store, guild_id: int, given: Snapshot) -> bool:
    """Say whether nobody took back anything of a snapshot meanwhile."""
    if given.source != "votes":
        return set(given.lineage) <= set((await _found(store, guild_id, given.source)).lineage)
    now = await store.votes.people(answer for _, answer, _ in given.lineage)
    return {(answer, user) for _, answer, user in given.lineage} <= set(now)


async def _found(store: Store, guild_id: int, source: Source) -> Snapshot:
    if source == "votes":
        return await _votes(store, guild_id)
    whose, told = (GLOBAL, words.global_jokes_there) if source == "global" else (guild_id, words.jokes_there)
    jokes = await store.jokes.trainable(whose)
    return Snapshot(
        source,
        await asyncio.to_thread(training_rows, [(joke.id, joke.text) for joke in jokes]),
        [("joke", joke.id, joke.author_id) for joke in jokes],
        told(await store.jokes.count(whose)),
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
