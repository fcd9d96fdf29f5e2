"""A job's copy of people's texts goes when the job has ended, however it ended. No torch."""

from pathlib import Path

import pytest

from tests.support.training_jobs import make_rows
from tests.training.test_jobs import FOREVER, ORDER, REFUSE, SUCCEED, running, status, until


@pytest.mark.parametrize(("script", "ends"), [(SUCCEED, "succeeded"), (REFUSE, "failed"), (FOREVER, "cancelled")])
async def test_an_ended_job_keeps_no_texts(tmp_path: Path, script: str, ends: str) -> None:
    async with running(tmp_path, script) as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        assert (folder.path / "train.jsonl").exists()
        await until(lambda: spawn.pids)
        if ends == "cancelled":
            await jobs.cancel(folder.id)
        await until(lambda: status(folder) == ends)
        assert list(folder.path.glob("*.jsonl")) == [folder.path / "events.jsonl"]


async def test_a_paused_job_keeps_what_it_needs_to_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, FOREVER) as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: spawn.pids)
        await jobs.pause(folder.id)
        assert (folder.path / "train.jsonl").exists()
        assert (folder.path / "held_out.jsonl").exists()
