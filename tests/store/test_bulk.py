"""Jokes by the thousand: batches are whole, isolated by server, and read back page by page."""

import asyncio
import random
import unicodedata
from pathlib import Path

import pytest

from bot.store import CONSENT_VERSION, GLOBAL, Store
from bot.store.bulk import PAGE, Draft
from bot.store.text import clean_and_key, normalise
from tests.store.builders import ANN, GUILD, OTHER_GUILD, open_store


def drafts(*texts: str, licence: str = "MIT") -> list[Draft]:
    return [Draft(*clean_and_key(text), licence) for text in texts]


async def exported(store: Store, guild: int) -> list[str]:
    return [kept.text async for kept in store.bulk.all(guild)]


async def test_each_draft_is_told_new_or_there_already_and_nothing_is_kept_twice(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.bulk.add(GUILD, drafts("One joke.", "Another joke.")) == [True, True]
        assert await store.bulk.add(GUILD, drafts("ONE joke!", "A third joke.")) == [False, True]
        assert await store.bulk.add(GUILD, []) == []
        assert await exported(store, GUILD) == ["One joke.", "Another joke.", "A third joke."]
        jokes = await store.jokes.trainable(GUILD)
        assert {(j.provenance, j.licence, j.author_id, j.is_global) for j in jokes} == {("import", "MIT", None, False)}


async def test_global_jokes_are_no_servers_and_servers_jokes_are_not_global(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.bulk.add(GLOBAL, drafts("Everybody's joke."))
        await store.bulk.add(GUILD, drafts("Everybody's joke.", "A server's joke."))
        await store.jokes.add(OTHER_GUILD, ANN, "Ann's own joke.", "modal", CONSENT_VERSION)
        assert [(j.text, j.is_global) for j in await store.jokes.trainable(GLOBAL)] == [("Everybody's joke.", True)]
        assert {j.is_global for j in await store.jokes.trainable(GUILD)} == {False}
        assert await exported(store, OTHER_GUILD) == ["Ann's own joke."]
        assert (await store.jokes.search(GUILD, "everybodys", 9))[0].guild_id == GUILD
        assert (await store.jokes.count(GUILD)).total == 2


async def test_known_answers_for_one_server_whatever_the_characters(tmp_path: Path) -> None:
    odd = ["'; DROP TABLE jokes; --", 'say "cheese"', "😀 emoji 👋🏽", "這個笑話很好笑", "back\\slash joke"]
    async with open_store(tmp_path) as store:
        await store.bulk.add(GUILD, drafts(*odd))
        keys = [normalise(text) for text in odd]
        assert await store.bulk.known(GUILD, [*keys, "not there"]) == set(keys)
        assert await store.bulk.known(OTHER_GUILD, keys) == set()
        assert await store.bulk.known(GUILD, []) == set()


async def test_a_batch_that_breaks_leaves_nothing_of_itself(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        twice = drafts("The same joke.", "A good joke.", "The same joke.")
        with pytest.raises(Exception, match="UNIQUE"):
            await store.bulk.add(GUILD, twice)
        assert await exported(store, GUILD) == []
        assert await store.bulk.add(GUILD, twice[:2]) == [True, True]


async def test_two_imports_of_the_same_jokes_at_once_keep_each_once(tmp_path: Path) -> None:
    texts = [f"Joke number {n} of many" for n in range(900)]
    async with open_store(tmp_path) as one, open_store(tmp_path) as two:
        batches = [(store, texts[i : i + 100]) for i in range(0, 900, 100) for store in (one, two)]
        told = await asyncio.gather(*(store.bulk.add(GLOBAL, drafts(*batch)) for store, batch in batches))
        assert sum(map(sum, told)) == 900
        assert sorted(await exported(one, GLOBAL)) == sorted(texts)


async def test_a_collection_of_several_pages_is_read_whole_and_in_order(tmp_path: Path) -> None:
    texts = [f"Joke number {n} of many" for n in range(2 * PAGE + 7)]
    async with open_store(tmp_path) as store:
        await store.bulk.add(GUILD, drafts(*texts))
        await store.bulk.add(OTHER_GUILD, drafts("In between"))
        assert await exported(store, GUILD) == texts


def test_the_short_way_for_ascii_gives_the_key_of_the_long_way() -> None:
    """A character beyond ASCII that leaves no trace in a key sends a text the long way."""
    chance = random.Random(3)
    characters = [chr(point) for point in range(128) if unicodedata.category(chr(point)) != "Cc"]
    for _ in range(3000):
        text = "".join(chance.choices(characters, k=chance.randrange(1, 30)))
        assert normalise(text) == normalise(f"{text}\u200b"), ascii(text)
