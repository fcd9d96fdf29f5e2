import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bot.store import CONSENT_TEXT, CONSENT_VERSION, Counts, Joke, Provenance, Refused, Store
from tests.store.builders import ANN, BOB, GUILD, OTHER_GUILD, add, open_store

PERMISSION = "Discord ticket 12345, 2026-05-01"


async def may_train(store: Store, joke: Joke) -> bool:
    """What the snapshot says, after checking that every other reading says the same."""
    read = await store.jokes.get(joke.guild_id, joke.id)
    assert read is not None
    in_snapshot = read.id in {trainable.id for trainable in await store.jokes.trainable(joke.guild_id)}
    assert read.trainable == in_snapshot
    return in_snapshot


def holding(folder: Path, text: str) -> list[str]:
    """Names of the files with this text in them, byte for byte."""
    return sorted(file.name for file in folder.iterdir() if text.encode() in file.read_bytes())


def test_the_consent_text_says_what_where_and_how_to_withdraw() -> None:
    for part in ("train", "machine that runs this bot", "nobody else", "withdraw", "!privacy"):
        assert part in CONSENT_TEXT
    assert len(CONSENT_TEXT) <= 300


@pytest.mark.parametrize(
    ("provenance", "author", "consent", "permission", "expected"),
    [
        ("import", None, None, None, True),
        ("import", ANN, None, None, True),
        ("modal", ANN, CONSENT_VERSION, None, True),
        ("modal", ANN, None, None, False),
        ("modal", ANN, None, PERMISSION, False),
        ("slash", ANN, CONSENT_VERSION, None, True),
        ("slash", ANN, None, None, False),
        ("generated", None, CONSENT_VERSION, None, True),
        ("generated", ANN, CONSENT_VERSION, None, True),
        ("generated", None, None, None, False),
        ("message", ANN, None, None, False),
        ("message", ANN, CONSENT_VERSION, None, False),
        ("message", ANN, CONSENT_VERSION, "  ", False),
        ("message", ANN, CONSENT_VERSION, PERMISSION, True),
        ("message", ANN, None, PERMISSION, False),
    ],
)
async def test_rule_one(
    tmp_path: Path,
    provenance: Provenance,
    author: int | None,
    consent: int | None,
    permission: str | None,
    expected: bool,
) -> None:
    licence = "CC0-1.0" if provenance == "import" else ""
    async with open_store(tmp_path, permission) as store:
        joke = (await store.jokes.add(GUILD, author, "Knock knock", provenance, consent, licence)).joke
        assert joke.trainable is expected
        assert await may_train(store, joke) is expected
        assert await store.jokes.count(GUILD) == Counts(total=1, trainable=int(expected))


async def test_withdrawing_keeps_a_persons_jokes_out_everywhere_at_once(tmp_path: Path) -> None:
    async with open_store(tmp_path, PERMISSION) as store:
        anns = [
            (await add(store, "Ann here", author=ANN)).joke,
            (await add(store, "Ann there", author=ANN, guild=OTHER_GUILD)).joke,
            (await store.jokes.add(GUILD, ANN, "Ann in a message", "message", CONSENT_VERSION)).joke,
        ]
        bobs = (await add(store, "Bob here", author=BOB)).joke
        bots = (await store.jokes.add(GUILD, None, "The bot's own", "generated", CONSENT_VERSION)).joke
        assert [await may_train(store, joke) for joke in [*anns, bobs, bots]] == [True] * 5
        assert await store.consent.withdraw(ANN) == 3
        assert [await may_train(store, joke) for joke in [*anns, bobs, bots]] == [False, False, False, True, True]
        assert await store.consent.current(ANN) is None
        assert await store.consent.current(BOB) == CONSENT_VERSION
        assert await store.consent.withdraw(ANN) == 0


async def test_withdrawal_outlives_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        joke = (await add(store, "Once agreed")).joke
        await store.consent.withdraw(ANN)
    async with open_store(tmp_path) as store:
        assert not await may_train(store, joke)


async def test_agreeing_again_covers_new_jokes_and_those_added_again_only(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        old = (await add(store, "An old joke")).joke
        other_old = (await add(store, "Another old joke")).joke
        await store.consent.withdraw(ANN)
        await store.consent.give(ANN, CONSENT_VERSION)
        assert await store.consent.current(ANN) == CONSENT_VERSION
        assert not await may_train(store, old)
        again = await add(store, "An OLD joke!")
        assert again.duplicate
        assert again.joke.id == old.id
        assert await may_train(store, old)
        assert not await may_train(store, other_old)


async def test_giving_twice_is_once_and_adding_with_consent_records_it(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.consent.current(ANN) is None
        await store.consent.give(ANN, CONSENT_VERSION)
        await store.consent.give(ANN, CONSENT_VERSION)
        await add(store, "A joke of Bob's", author=BOB)
        assert await store.consent.current(ANN) == await store.consent.current(BOB) == CONSENT_VERSION
        await add(store, "Silent", author=33, consent=None)
        assert await store.consent.current(33) is None
    with closing(sqlite3.connect(tmp_path / "punchline.db")) as connection:
        assert connection.execute("SELECT count(*) FROM consents").fetchone() == (2,)


@pytest.mark.parametrize("version", [0, -1, CONSENT_VERSION + 1])
async def test_a_consent_nobody_was_shown_is_refused(tmp_path: Path, version: int) -> None:
    async with open_store(tmp_path) as store:
        with pytest.raises(
            Refused, match=f"no consent text of version {version}; the current one is {CONSENT_VERSION}."
        ):
            await store.consent.give(ANN, version)
        assert await store.consent.current(ANN) is None


async def test_the_authors_own_modal_makes_a_message_joke_trainable(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        told = (await store.jokes.add(GUILD, ANN, "knock knock", "message", CONSENT_VERSION)).joke
        again = await add(store, "Knock, knock!", author=ANN)
        assert (again.duplicate, again.joke.id) == (True, told.id)
        assert (again.joke.text, again.joke.provenance, again.joke.trainable) == ("Knock, knock!", "modal", True)


@pytest.mark.parametrize(
    ("author", "provenance", "consent"),
    [(BOB, "modal", CONSENT_VERSION), (ANN, "modal", None), (ANN, "message", CONSENT_VERSION)],
)
async def test_nothing_less_makes_a_message_joke_trainable(
    tmp_path: Path, author: int, provenance: Provenance, consent: int | None
) -> None:
    async with open_store(tmp_path) as store:
        told = (await store.jokes.add(GUILD, ANN, "knock knock", "message", None)).joke
        again = await store.jokes.add(GUILD, author, "Knock, knock!", provenance, consent)
        assert again.duplicate
        assert (again.joke.author_id, again.joke.text) == (ANN, "knock knock") or provenance == "message"
        assert not await may_train(store, told)


async def test_a_message_never_takes_over_a_joke_that_may_train(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        joke = (await add(store, "Knock knock")).joke
        again = await store.jokes.add(GUILD, ANN, "knock KNOCK", "message", CONSENT_VERSION)
        assert again.joke == joke
        assert again.joke.trainable


async def test_permission_counts_while_it_is_set_and_is_kept_on_record(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        joke = (await store.jokes.add(GUILD, ANN, "Told in a message", "message", CONSENT_VERSION)).joke
        assert not await may_train(store, joke)
    for _ in range(2):
        async with open_store(tmp_path, f" {PERMISSION} ") as store:
            assert await may_train(store, joke)
    async with open_store(tmp_path) as store:
        assert not await may_train(store, joke)
    with closing(sqlite3.connect(tmp_path / "punchline.db")) as connection:
        assert connection.execute("SELECT reference FROM discord_permissions").fetchall() == [(PERMISSION,)]


async def test_forgetting_a_person_erases_them_from_the_file(tmp_path: Path) -> None:
    secret = "A joke nobody else could have made up"
    async with open_store(tmp_path) as store:
        await add(store, secret, author=ANN)
        assert holding(tmp_path, secret) == ["punchline.db-wal"]
        await add(store, "Over there", author=ANN, guild=OTHER_GUILD)
        imported = (await store.jokes.add(GUILD, ANN, "From a book", "import", None, "MIT")).joke
        bobs = (await add(store, "Bob's own", author=BOB)).joke
        await store.jobs.record(GUILD, "ftjob-1", 1, 2, ANN)
        assert await store.jokes.forget_author(ANN) == 2
        assert await store.jokes.forget_author(ANN) == 0
        kept = await store.jokes.latest(GUILD, 10)
        assert [(joke.id, joke.author_id) for joke in kept] == [(bobs.id, BOB), (imported.id, None)]
        assert await store.consent.current(ANN) is None
        job = await store.jobs.active(GUILD)
        assert job is not None
        assert job.started_by is None
        assert holding(tmp_path, "Bob's own") == ["punchline.db"]
        assert holding(tmp_path, secret) == holding(tmp_path, secret.lower()) == []
