"""Jobs at odd moments: two wishes at once, a wish for what has just ended, a disk on which nothing can be noted."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from model_service.config import ModelSettings, TrainingSettings
from model_service.errors import Conflict
from model_service.training.folder import JobFolder
from model_service.training.jobs import Jobs
from tests.support.training_jobs import FakePool, fake_base, make_rows
from tests.training.test_jobs import ORDER, SUCCEED, Scripts, running, status, until


async def test_a_job_that_is_being_cancelled_cannot_be_paused_instead(tmp_path: Path) -> None:
    deaf = "trap '' TERM; touch deaf; while :; do sleep 0.05; done"
    async with running(tmp_path, deaf, stop_limit_s=0.5) as (jobs, _, _spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until((folder.path / "deaf").exists)
        await asyncio.gather(jobs.cancel(folder.id), jobs.pause(folder.id))
        assert status(folder) == "cancelled"
        other = await jobs.create(ORDER, make_rows())
        await until((other.path / "deaf").exists)
        await asyncio.gather(jobs.pause(other.id), jobs.cancel(other.id))
        assert status(other) == "cancelled"


async def test_what_comes_while_the_finished_model_is_loaded_is_a_sentence_and_changes_nothing(tmp_path: Path) -> None:
    loading, go_on = asyncio.Event(), asyncio.Event()

    class SlowPool(FakePool):
        async def load(self, spec: ModelSettings, /) -> None:
            loading.set()
            await go_on.wait()

    pool = SlowPool({"tiny": fake_base(tmp_path / "base")})
    jobs = Jobs(tmp_path, TrainingSettings(), pool, spawn=Scripts(SUCCEED), settle_limit_s=0.05)
    await jobs.start()
    folder = await jobs.create(ORDER, make_rows())
    async with asyncio.timeout(30):
        await loading.wait()
    for stop in (jobs.cancel, jobs.pause):
        with pytest.raises(Conflict, match="has just ended; its model is being loaded"):
            await stop(folder.id)
    with pytest.raises(Conflict, match="only a paused job can be resumed"):
        await jobs.resume(folder.id)
    go_on.set()
    await until(lambda: status(folder) == "succeeded")
    await jobs.close()


async def test_a_running_job_sees_whether_people_are_being_answered(tmp_path: Path) -> None:
    is_busy = False
    is_said = "grep -qaP '\\x01' busy; do sleep 0.01; done;"
    sees = f"until {is_said} touch seen; while {is_said}"
    async with running(tmp_path, sees + SUCCEED, busy=lambda: is_busy) as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: spawn.pids)
        assert not (folder.path / "seen").exists()
        is_busy = True
        await until((folder.path / "seen").exists)
        assert status(folder) == "running"
        is_busy = False
        await until(lambda: status(folder) == "succeeded")


async def test_a_disk_too_full_to_note_anything_does_not_end_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, change = asyncio.Event(), JobFolder.change_status
    is_full = True

    def full(self: JobFolder, **changes: Any) -> None:
        if is_full and changes["status"] != "queued":
            loop.call_soon_threadsafe(tried.set)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        change(self, **changes)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr("model_service.training.jobs.NOTE_AGAIN_S", 0.01)
    monkeypatch.setattr(JobFolder, "change_status", full)
    async with running(tmp_path, SUCCEED) as (jobs, _, _spawn):
        unlucky = await jobs.create(ORDER, make_rows())
        async with asyncio.timeout(30):
            await tried.wait()
        is_full = False
        await until(lambda: status(unlucky) == "failed")
        assert "No space left on device" in unlucky.status["error"]["message"]
        after = await jobs.create(ORDER, make_rows())
        await until(lambda: status(after) == "succeeded")
