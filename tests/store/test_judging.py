"""What is kept of judging: outcomes and decisions of fine-tunes, earlier models, duels and their counts."""

import asyncio
import time
from functools import partial
from pathlib import Path

import aiosqlite
import pytest

from bot.store import Duel, DuelOpen, Outcome, Store, database
from bot.store.database import Database
from tests.store.builders import ANN, BOB, GUILD, OTHER_GUILD, open_store

NEW, OLD = "ft:jokes-mini:1:a", "jokes-mini"


async def open_duel(
    store: Store, channel_id: int = 5, models: tuple[str, str] = (NEW, OLD), lasts_s: float = 60
) -> Duel:
    return await store.duels.open(
        GUILD, channel_id, channel_id + 100, "cats", models, ("One.", "Two."), votes_wanted=3, lasts_s=lasts_s
    )


async def test_a_jobs_outcome_and_decision_outlive_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.jobs.record(OTHER_GUILD, "ftjob-0", 5, 5, ANN)
        for name in ("ftjob-1", "ftjob-2"):
            await store.jobs.record(GUILD, name, 5, 6 if name == "ftjob-1" else 7, ANN, OLD)
            await store.jobs.finish(name, "succeeded", NEW, Outcome(180, 3.5, 3.1, passed=True))
        await store.jobs.decide("ftjob-1", "undone", BOB)
    async with open_store(tmp_path) as store:
        job = await store.jobs.of_message(6)
        assert job is not None
        assert (job.job_id, job.number, job.started_from) == ("ftjob-1", 1, OLD)
        assert job.outcome == Outcome(180, 3.5, 3.1, passed=True)
        assert (job.decision, job.decided_by) == ("undone", BOB)
        assert [each.number for each in await store.jobs.history(GUILD)] == [2, 1]
        assert await store.jobs.of_message(99) is None


async def test_every_change_of_the_joke_model_can_be_taken_back_one_by_one(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        models = store.joke_models
        assert [await models.use(GUILD, model) for model in ("a", "b", "b", "c")] == [True, True, False, True]
        assert await models.past(GUILD) == ["b", "a", None]
    async with open_store(tmp_path) as store:
        models = store.joke_models
        assert not await models.back(GUILD, "a"), "not the live one"
        for left, now in (("c", "b"), ("b", "a"), ("a", None)):
            assert await models.back(GUILD, left)
            assert await models.live(GUILD) == now
        assert not await models.back(GUILD, None)
        assert await models.live(OTHER_GUILD) is None


async def test_two_rollbacks_at_once_are_one_step(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for model in ("a", "b"):
            await store.joke_models.use(GUILD, model)
        assert sorted(await asyncio.gather(*(store.joke_models.back(GUILD, "b") for _ in range(3)))) == [0, 0, 1]
        assert await store.joke_models.live(GUILD) == "a"


async def test_withdrawn_models_leave_the_present_and_the_past_of_every_guild(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for guild, models in ((GUILD, ("a", "bad", "b", "worse")), (OTHER_GUILD, ("bad",)), (3003, ("a", "bad", "c"))):
            for model in models:
                await store.joke_models.use(guild, model)
        changed = await store.joke_models.withdraw(["bad", "worse"])
        assert changed == {GUILD: ("worse", "b"), OTHER_GUILD: ("bad", None)}
        assert [await store.joke_models.live(guild) for guild in (GUILD, OTHER_GUILD, 3003)] == ["b", None, "c"]
        assert await store.joke_models.past(GUILD) == ["a", None]
        assert await store.joke_models.past(3003) == ["a", None]


async def test_the_model_before_is_taken_over_from_an_older_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = database.migrations()
    monkeypatch.setattr(database, "migrations", lambda: scripts[:1])
    old = await Database.open(tmp_path / "punchline.db")
    for sql in (
        f"INSERT INTO guild_settings VALUES (1001, 'joke_model', '{NEW}'), (1001, 'previous_joke_model', '{OLD}')",
        "INSERT INTO jobs VALUES ('ftjob-1', 1001, 5, 6, 11, 1.0, 'succeeded', 'ft:x', 2.0)",
    ):
        await old.write(partial(aiosqlite.Connection.execute_fetchall, sql=sql))
    await old.close()
    monkeypatch.undo()
    async with open_store(tmp_path) as store:
        assert (await store.joke_models.live(GUILD), await store.joke_models.past(GUILD)) == (NEW, [OLD])
        [job] = await store.jobs.history(GUILD)
        assert (job.outcome.passed, job.decision) == (True, None)


async def test_one_person_has_one_vote_that_may_change_until_the_end(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        duel = await open_duel(store)
        assert [await store.duels.vote(duel.id, ANN, choice) for choice in ("A", "B", "A")] == [1, 1, 1]
        assert await store.duels.vote(duel.id, BOB, "A") == 2
    async with open_store(tmp_path) as store:
        assert await store.duels.count(duel.id) == 2
        ended = await store.duels.close(duel.id)
        assert (ended.votes, ended.models) == ((2, 0), (NEW, OLD))
        assert await store.duels.vote(duel.id, 33, "B") is None
        assert (await store.duels.close(duel.id)).votes == (2, 0), "it ended once"
        assert await store.duels.count(duel.id) == 0, "who voted how is forgotten"


async def test_what_was_said_is_forgotten_when_the_end_was_shown_and_the_counts_stay(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        duel = await store.duels.open(
            GUILD, 5, 9, "my garden", (NEW, OLD), ("One garden.", "Two gardens."), votes_wanted=1, lasts_s=60
        )
        await store.duels.vote(duel.id, ANN, "A")
        assert (await store.duels.close(duel.id)).texts == ("One garden.", "Two gardens."), "not shown yet"
        await store.duels.revealed(duel.id)
        assert (await store.duels.record(GUILD, NEW, OLD)).won == 1
        await store.jokes.forget_author(ANN)  # leaves nothing in the log of writes either
    assert b"garden" not in (tmp_path / "punchline.db").read_bytes()


async def test_a_vote_after_the_time_is_not_counted(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        duel = await open_duel(store, lasts_s=-1)
        assert duel.ends_at < time.time()
        assert await store.duels.vote(duel.id, ANN, "A") is None


async def test_a_channel_has_one_open_duel(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = await open_duel(store)
        with pytest.raises(DuelOpen, match="already open in this channel"):
            await open_duel(store)
        await store.duels.close(first.id)
        second = await open_duel(store, models=(OLD, NEW))
        assert await store.duels.open_in(5) == second
        assert [duel.id for duel in await store.duels.unrevealed()] == [first.id, second.id]
        await store.duels.revealed(first.id)
        assert [duel.id for duel in await store.duels.unrevealed()] == [second.id]


async def test_the_record_counts_a_pair_whichever_side_it_stood_on(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for models, votes in (((NEW, OLD), "AAB"), ((OLD, NEW), "AB"), ((OLD, NEW), "B"), ((OLD, NEW), "A")):
            duel = await open_duel(store, models=models)
            for user, choice in enumerate(votes):
                await store.duels.vote(duel.id, user, choice)  # type: ignore[arg-type]
            await store.duels.close(duel.id)
        record = await store.duels.record(GUILD, NEW, OLD)
        assert (record.won, record.lost, record.drawn) == (2, 1, 1)
        assert (await store.duels.record(OTHER_GUILD, NEW, OLD)).won == 0


async def test_a_person_who_is_forgotten_leaves_no_vote_and_no_decision(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        duel = await open_duel(store)
        await store.duels.vote(duel.id, ANN, "A")
        await store.jobs.record(GUILD, "ftjob-1", 5, 6, BOB)
        await store.jobs.finish("ftjob-1", "succeeded", NEW)
        await store.jobs.decide("ftjob-1", "kept", ANN)
        await store.jokes.forget_author(ANN)
        assert await store.duels.count(duel.id) == 0
        [job] = await store.jobs.history(GUILD)
        assert (job.decision, job.decided_by) == ("kept", None)
