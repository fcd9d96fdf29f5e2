import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot.store import CONSENT_VERSION, Counts, Imported, Refused, Store, StoreError
from tests.store.builders import ANN, BOB, GUILD, OTHER_GUILD, add, open_store

HOSTILE = ['"', "'", "duck OR goose", "duck AND", "NOT", "NEAR(duck)", "duck*", "text:duck", "(", ")", "^duck", "-duck"]
HOSTILE += [
    "%",
    "_",
    "\\",
    "'; DROP TABLE jokes; --",
    "{}",
    "[]",
    "\0",
    "\ud800",
    "\ud83d\0\udfff",
    ":guild_id",
    "?1",
    "",
]
HOSTILE += ["  ", "a " * 20_000, "b" * 100_000, " ".join(map(str, range(40_000)))]


async def texts(store: Store, words: str, guild: int = GUILD) -> list[str]:
    return [joke.text for joke in await store.jokes.search(guild, words, 10)]


async def test_a_joke_comes_back_as_it_was_added(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        added = await store.jokes.add(GUILD, ANN, "  A “joke” 👋🏽\nin two lines ", "slash", CONSENT_VERSION)
        joke = added.joke
        assert not added.duplicate
        assert await store.jokes.get(GUILD, joke.id) == joke
    assert (joke.guild_id, joke.author_id, joke.text) == (GUILD, ANN, "A “joke” 👋🏽\nin two lines")
    assert (joke.provenance, joke.trainable, joke.consent_version) == ("slash", True, CONSENT_VERSION)
    assert (joke.is_global, joke.licence) == (False, "")
    assert timedelta(0) <= datetime.now(UTC) - joke.created_at < timedelta(seconds=20)


async def test_the_same_joke_again_is_reported_and_kept_once(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = await add(store, "Don't panic!", author=ANN)
        again = await add(store, "  DON’T   panic ", author=BOB)
        assert again.duplicate
        assert again.joke == first.joke
        assert await store.jokes.count(GUILD) == Counts(total=1, trainable=1)


async def test_the_same_joke_from_many_people_at_once_is_one_row(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store, open_store(tmp_path) as second:
        stores = [store, second] * 20
        results = await asyncio.gather(
            *(add(s, f"So{'!' * n} a joke", author=n + 1, consent=None) for n, s in enumerate(stores))
        )
        assert [added.duplicate for added in results].count(False) == 1
        assert len({added.joke.id for added in results}) == 1
        assert (await store.jokes.count(GUILD)).total == 1


async def test_guilds_never_see_each_others_jokes(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        mine = (await add(store, "A joke about ducks", guild=GUILD)).joke
        theirs = (await add(store, "A joke about ducks", guild=OTHER_GUILD)).joke
        await store.jokes.import_texts(OTHER_GUILD, ["A global joke about ducks"], "CC0-1.0", is_global=True)
        assert mine.id != theirs.id
        assert await store.jokes.get(GUILD, theirs.id) is None
        assert await store.jokes.remove(GUILD, theirs.id) is False
        assert await store.jokes.latest(GUILD, 10) == [mine]
        assert await store.jokes.search(GUILD, "ducks", 10) == [mine]
        assert await store.jokes.trainable(GUILD) == [mine]
        assert await store.jokes.count(GUILD) == Counts(total=1, trainable=1)
        assert {(await store.jokes.random(GUILD)) for _ in range(20)} == {mine}
        assert await store.jokes.count(3003) == Counts(total=0, trainable=0)
        assert await store.jokes.random(3003) is None


async def test_latest_is_newest_first_and_random_reaches_every_joke(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        ids = [(await add(store, f"Joke number {n}")).joke.id for n in range(5)]
        assert [joke.id for joke in await store.jokes.latest(GUILD, 3)] == ids[:1:-1]
        assert await store.jokes.latest(GUILD, 0) == []
        assert await store.jokes.latest(GUILD, -1) == []
        seen = set()
        for _ in range(200):
            joke = await store.jokes.random(GUILD)
            assert joke is not None
            seen.add(joke.id)
        assert seen == set(ids)


async def test_search_finds_jokes_with_all_words_whatever_the_spelling(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        duck, cafe, chinese = "Why don’t DUCKS pay?", "The Café burned down", "這個笑話很好笑"
        for text in (duck, cafe, chinese, "50% of ducks, _really_"):
            await add(store, text)
        assert await texts(store, "duck dont") == [duck]
        assert await texts(store, "PAY, Ducks!") == [duck]
        assert await texts(store, "ducks") == ["50% of ducks, _really_", duck]
        assert await texts(store, "cafe\u0301 burn") == [cafe]
        assert await texts(store, "笑話") == [chinese]
        assert await texts(store, "50%") == ["50% of ducks, _really_"]
        assert await texts(store, "ducks goose") == []


@pytest.mark.parametrize(
    "typed",
    HOSTILE,
    ids=lambda typed: ascii(typed[:20]),
)
async def test_nothing_typed_into_a_search_is_special(tmp_path: Path, typed: str) -> None:
    async with open_store(tmp_path) as store:
        await add(store, "Nothing in here matches")
        assert await texts(store, typed) in ([], ["Nothing in here matches"])
        assert (await store.jokes.count(GUILD)).total == 1


async def test_percent_and_underscore_are_no_wildcards(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await add(store, "Plain text")
        assert await texts(store, "%") == []
        assert await texts(store, "pl%n") == []
        assert await texts(store, "_") == []


async def test_a_removed_jokes_number_never_comes_back(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = (await add(store, "Gone soon")).joke
        assert await store.jokes.remove(GUILD, first.id) is True
        assert await store.jokes.remove(GUILD, first.id) is False
        assert await store.jokes.get(GUILD, first.id) is None
        again = await add(store, "Gone soon")
        assert not again.duplicate
        assert again.joke.id > first.id


@pytest.mark.parametrize("joke_id", [0, -1, 2**63, 10**40])
async def test_a_number_no_joke_can_have_is_simply_not_found(tmp_path: Path, joke_id: int) -> None:
    async with open_store(tmp_path) as store:
        assert await store.jokes.get(GUILD, joke_id) is None
        assert await store.jokes.remove(GUILD, joke_id) is False


async def test_refusals_are_sentences_of_one_tree_and_keep_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        attempts = {
            "at least 3 characters": store.jokes.add(GUILD, ANN, " a ", "modal", None),
            "has 1,001 characters": store.jokes.add(GUILD, ANN, "x" * 1001, "modal", None),
            "cannot be stored": store.jokes.add(GUILD, ANN, "a \ud800 joke", "modal", None),
            "must name the licence": store.jokes.add(GUILD, None, "An import", "import", None, licence=" "),
            "stored with its author": store.jokes.add(GUILD, None, "Whose joke", "message", None),
            "no consent text of version 99": store.jokes.add(GUILD, ANN, "A good joke", "modal", 99),
        }
        for sentence, attempt in attempts.items():
            with pytest.raises(Refused, match=sentence) as refusal:
                await attempt
            assert isinstance(refusal.value, StoreError)
            assert isinstance(refusal.value, ValueError)
            assert str(refusal.value)[0].isupper()
            assert str(refusal.value).endswith(".")
        assert (await store.jokes.count(GUILD)).total == 0


async def test_the_starter_pack_is_imported_once_with_its_licence(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = await store.jokes.import_starter(GUILD)
        assert first.added >= 150
        assert first.duplicates == 0
        assert await store.jokes.import_starter(GUILD) == Imported(added=0, duplicates=first.added)
        jokes = await store.jokes.trainable(GUILD)
        assert len(jokes) == first.added
        assert {(j.provenance, j.licence, j.author_id, j.is_global) for j in jokes} == {
            ("import", "CC0-1.0", None, False)
        }
        assert (await store.jokes.count(OTHER_GUILD)).total == 0


async def test_an_import_with_one_refused_text_adds_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with pytest.raises(Refused):
            await store.jokes.import_texts(GUILD, ["A good joke", "x"], "CC0-1.0")
        assert (await store.jokes.count(GUILD)).total == 0


async def test_an_import_counts_duplicates_within_itself(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        imported = await store.jokes.import_texts(GUILD, ["One joke", "one JOKE!", "Another"], "MIT")
        assert imported == Imported(added=2, duplicates=1)


async def test_a_snapshot_is_oldest_first_and_does_not_change_afterwards(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        ids = [(await add(store, f"Joke number {n}")).joke.id for n in range(3)]
        snapshot = await store.jokes.trainable(GUILD)
        await store.jokes.remove(GUILD, ids[0])
        assert [joke.id for joke in snapshot] == ids
        with pytest.raises(AttributeError):
            snapshot[0].trainable = False  # type: ignore[misc]
        assert replace(snapshot[0], text="x").text == "x"
