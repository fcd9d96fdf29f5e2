import asyncio
from pathlib import Path

import pytest

from bot.store import JobActive
from tests.store.builders import ANN, GUILD, OTHER_GUILD, open_store


async def test_a_job_is_active_until_it_is_finished_also_after_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.jobs.active(GUILD) is None
        job = await store.jobs.record(GUILD, "ftjob-1", 5, 6, ANN)
        assert (job.job_id, job.guild_id, job.channel_id, job.message_id, job.started_by) == (
            "ftjob-1",
            GUILD,
            5,
            6,
            ANN,
        )
        assert (job.status, job.model, job.finished_at) == (None, None, None)
    async with open_store(tmp_path) as store:
        assert await store.jobs.active(GUILD) == job
        assert await store.jobs.active(OTHER_GUILD) is None
        assert await store.jobs.all_active() == [job]
        assert await store.jobs.finish("ftjob-1", "succeeded", "ft:jokes-mini:1001:ftjob-1") is True
        assert await store.jobs.active(GUILD) is None
        assert await store.jobs.all_active() == []
        (ended,) = await store.jobs.history(GUILD)
    assert (ended.status, ended.model) == ("succeeded", "ft:jokes-mini:1001:ftjob-1")
    assert ended.finished_at is not None
    assert ended.finished_at >= ended.started_at == job.started_at


async def test_a_guild_has_one_active_job_also_when_two_start_at_once(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        results = await asyncio.gather(
            *(store.jobs.record(GUILD, f"ftjob-{n}", 1, None, ANN) for n in range(5)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, JobActive)]
        assert len(refused) == 4
        assert str(refused[0]) == "A fine-tune is already running here. Wait for it, or cancel it first."
        await store.jobs.record(OTHER_GUILD, "ftjob-other", 1, None, ANN)
        assert len(await store.jobs.all_active()) == 2


async def test_recording_the_same_job_again_moves_its_message(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.jobs.record(GUILD, "ftjob-1", 5, None, ANN)
        moved = await store.jobs.record(GUILD, "ftjob-1", 7, 8, ANN)
        assert (moved.channel_id, moved.message_id) == (7, 8)
        assert await store.jobs.history(GUILD) == [moved]


async def test_the_first_end_of_a_job_stays(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.jobs.record(GUILD, "ftjob-1", 5, 6, ANN)
        assert await store.jobs.finish("ftjob-1", "cancelled", None) is True
        assert await store.jobs.finish("ftjob-1", "succeeded", "ft:x") is False
        assert await store.jobs.finish("ftjob-unknown", "failed", None) is False
        assert [(job.status, job.model) for job in await store.jobs.history(GUILD)] == [("cancelled", None)]


async def test_history_is_the_guilds_own_newest_first(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for n in range(4):
            await store.jobs.record(GUILD, f"ftjob-{n}", 5, 6, ANN)
            await store.jobs.finish(f"ftjob-{n}", "failed", None)
        await store.jobs.record(OTHER_GUILD, "ftjob-other", 5, 6, ANN)
        assert [job.job_id for job in await store.jobs.history(GUILD, limit=3)] == ["ftjob-3", "ftjob-2", "ftjob-1"]
        assert await store.jobs.history(GUILD, limit=0) == []


async def test_settings_are_per_guild_and_outlive_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.settings.get(GUILD, "joke_model") is None
        await store.settings.set(GUILD, "joke_model", "jokes-mini")
        await store.settings.set(GUILD, "joke_model", "ft:jokes-mini:1001:ftjob-1")
        await store.settings.set(GUILD, "previous_joke_model", "jokes-mini")
    async with open_store(tmp_path) as store:
        assert await store.settings.get(GUILD, "joke_model") == "ft:jokes-mini:1001:ftjob-1"
        assert await store.settings.get(OTHER_GUILD, "joke_model") is None
        await store.settings.set(GUILD, "joke_model", None)
        assert await store.settings.get(GUILD, "joke_model") is None
        assert await store.settings.get(GUILD, "previous_joke_model") == "jokes-mini"


@pytest.mark.parametrize(
    "value", ["", "'; DROP TABLE jobs; --", "ünïcode 👋🏽", "x" * 10_000], ids=lambda v: ascii(v[:10])
)
async def test_any_text_is_a_setting(tmp_path: Path, value: str) -> None:
    async with open_store(tmp_path) as store:
        await store.settings.set(GUILD, "joke_model", value)
        assert await store.settings.get(GUILD, "joke_model") == value
