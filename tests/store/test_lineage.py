"""Whose data is in which fine-tune, and what taking it back does, in a real database."""

from pathlib import Path

import aiosqlite
import pytest

from bot.store import Outcome, Store, Tally
from bot.store.votes import Vote
from tests.store.builders import ANN, BOB, GUILD, OTHER_GUILD, add, open_store


async def tuned(
    store: Store, job_id: str, users: list[int | None], *, guild: int = GUILD, started_from: str | None = "jokes-mini"
) -> str:
    """Record a fine-tune on a row of each of these users, ended with a model that is in use; returns the model."""
    model = f"ft:jokes-mini:{guild}:{job_id}"
    await store.lineage.record(job_id, [("joke", place, user) for place, user in enumerate(users, start=1)])
    await store.jobs.record(guild, job_id, 5, None, ANN, started_from)
    await store.jobs.finish(job_id, "succeeded", model, Outcome(180, 3.5, 3.1, passed=True))
    await store.joke_models.use(guild, model)
    return model


async def test_a_fine_tune_is_found_by_the_people_whose_rows_it_was_given(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await tuned(store, "ftjob-a", [ANN, ANN, BOB, None])
        await tuned(store, "ftjob-b", [BOB, None])
    async with open_store(tmp_path) as store:
        assert [(each.job_id, each.num_rows) for each in await store.lineage.holding(ANN)] == [("ftjob-a", 2)]
        assert [(each.number, each.num_rows) for each in await store.lineage.holding(BOB)] == [(1, 1), (2, 1)]
        assert await store.lineage.holding(99) == []


async def test_what_went_on_from_a_model_holds_what_the_model_holds(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = await tuned(store, "ftjob-a", [ANN])
        second = await tuned(store, "ftjob-b", [BOB], started_from=first)
        await tuned(store, "ftjob-c", [BOB], started_from=second)
        await tuned(store, "ftjob-d", [BOB])
        found = await store.lineage.holding(ANN)
        assert [(each.job_id, each.num_rows) for each in found] == [("ftjob-a", 1), ("ftjob-b", 0), ("ftjob-c", 0)]


async def told(store: Store, message: int, model: str, text: str, value: Vote) -> None:
    """Let a model tell Bob a joke that he votes on."""
    await store.votes.told(GUILD, message, BOB, "", "message", prompt="JOKE:", text=text, model=model)
    await store.votes.vote(message, BOB, value)


async def test_what_learned_from_what_a_model_told_holds_what_the_model_holds(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        dirty, clean = await tuned(store, "ftjob-a", [ANN]), await tuned(store, "ftjob-b", [BOB])
        await told(store, 1, dirty, "Ann's own joke, word for word.", 1)
        await told(store, 2, clean, "Another.", -1)
        for job_id, answer in (("ftjob-c", 1), ("ftjob-d", 2)):
            await store.lineage.record(job_id, [("answer", answer, BOB)])
            await store.jobs.record(GUILD, job_id, 5, None, BOB, "jokes-mini")
            await store.jobs.finish(job_id, "succeeded", f"ft:jokes-mini:{GUILD}:{job_id}")
        await store.votes.vote(1, BOB, 1)  # taken back: old and unvoted, but something has learned from it
        async with aiosqlite.connect(tmp_path / "punchline.db") as raw:
            await raw.execute("UPDATE answers SET told_at = told_at - 31 * 86400")
            await raw.commit()
        await told(store, 3, clean, "A new one.", 1)
        assert [each.job_id for each in await store.lineage.holding(ANN)] == ["ftjob-a", "ftjob-c"]


async def test_what_a_withdrawn_model_told_is_forgotten_and_duels_keep_their_counts(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        dirty, clean = await tuned(store, "ftjob-a", [ANN]), await tuned(store, "ftjob-b", [BOB])
        await told(store, 1, dirty, "Ann's garden joke.", 1)
        await told(store, 2, clean, "A clean one.", 1)
        texts = ("A clean answer.", "Ann's garden joke.")
        duel = await store.duels.open(GUILD, 5, 9, "", (clean, dirty), texts, votes_wanted=9, lasts_s=600)
        await store.duels.vote(duel.id, BOB, "B")
        await store.lineage.withdraw(ANN)
        await told(store, 3, dirty, "Ann's garden joke.", 1)  # it was telling this one when it was withdrawn
        assert [await store.votes.vote(message, ANN, 1) for message in (1, 2, 3)] == [None, Tally(2, 0), None]
        closed = await store.duels.close(duel.id)
        assert (closed.texts, closed.votes) == (("A clean answer.", ""), (0, 1))
        await store.jokes.forget_author(ANN)
    assert b"garden" not in (tmp_path / "punchline.db").read_bytes()


async def test_rows_are_traced_to_their_author_after_the_joke_itself_is_gone(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        joke = (await add(store, "A joke that a moderator removes.")).joke
        await store.lineage.record("ftjob-a", [("joke", joke.id, joke.author_id)])
        await store.jobs.record(GUILD, "ftjob-a", 5, None, BOB)
        await store.jokes.remove(GUILD, joke.id)
        assert [each.job_id for each in await store.lineage.holding(ANN)] == ["ftjob-a"]


async def test_a_fine_tune_from_before_rows_were_noted_counts_where_the_person_had_jokes_by_then(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        await add(store, "Told before the training.")
        await store.jobs.record(GUILD, "ftjob-old", 5, None, BOB)
        await store.jobs.record(OTHER_GUILD, "ftjob-elsewhere", 5, None, BOB)
        await add(store, "Told after the training.", author=BOB)
        assert [each.job_id for each in await store.lineage.holding(ANN)] == ["ftjob-old"]
        assert await store.lineage.holding(BOB) == []


async def test_withdrawing_marks_once_forgets_whose_rows_and_stays_until_settled(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        model = await tuned(store, "ftjob-a", [ANN, BOB])
        [marked] = await store.lineage.withdraw(ANN)
        assert (marked.model, marked.num_rows, marked.is_deleted, marked.is_told) == (model, 1, False, False)
        assert await store.lineage.withdraw(ANN) == []
        assert await store.lineage.holding(BOB) == [], "it is withdrawn already"
    async with open_store(tmp_path) as store:
        assert await store.lineage.is_withdrawn("ftjob-a")
        assert [job.withdrawn for job in await store.jobs.history(GUILD)] == [True]
        assert [each.job_id for each in await store.lineage.unsettled()] == ["ftjob-a"]
        await store.lineage.deleted("ftjob-a")
        assert [each.is_deleted for each in await store.lineage.unsettled()] == [True]
        await store.lineage.told("ftjob-a")
        assert await store.lineage.unsettled() == []
    async with aiosqlite.connect(tmp_path / "punchline.db") as raw:
        rows = await raw.execute_fetchall("SELECT user_id FROM job_rows ORDER BY row_id")
        assert [row[0] for row in rows] == [None, BOB]


@pytest.mark.parametrize("has_ended", [True, False])
async def test_withdrawn_models_leave_present_and_past_of_their_guild(tmp_path: Path, *, has_ended: bool) -> None:
    async with open_store(tmp_path) as store:
        clean = await tuned(store, "ftjob-a", [BOB])
        dirty = await tuned(store, "ftjob-b", [ANN])
        await tuned(store, "ftjob-c", [BOB], started_from=dirty)
        if not has_ended:
            await store.lineage.record("ftjob-d", [("joke", 1, ANN)])
            await store.jobs.record(GUILD, "ftjob-d", 5, None, BOB)
        withdrawn = await store.lineage.withdraw(ANN)
        assert [each.has_ended for each in withdrawn] == [True, True] + [False] * (not has_ended)
        await store.joke_models.withdraw([each.model for each in withdrawn if each.model])
        assert await store.joke_models.live(GUILD) == clean
        assert await store.joke_models.past(GUILD) == [None]
