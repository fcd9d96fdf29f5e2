"""Jobs survive their children and their service. The children here are shell scripts; no torch."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from model_service.config import ModelSettings, TrainingSettings
from model_service.errors import Conflict, ModelFailed, ModelNoRoom, NotFound
from model_service.training import durable
from model_service.training.child import Child
from model_service.training.folder import JobFolder
from model_service.training.jobs import Jobs
from model_service.training.orders import Order
from tests.support.training_jobs import FakePool, fake_base, make_rows

ORDER = Order(model="tiny", training_file="file-1", seed=1)
FOREVER = "sleep 100"
REFUSE = """printf '{"message": "No more numbers.", "code": "non_finite_loss"}' > failure.json; exit 65"""
SUCCEED = """
model=$(sed -n 's/.*"fine_tuned_model": "\\(.*\\)".*/\\1/p' job.json)
mkdir -p "../../models/$model" && echo '{}' > "../../models/$model/manifest.json"
printf '{"fine_tuned_model": "%s", "metrics": {}, "gate": {"passed": true, "reasons": ["It is better."]}}' "$model" \\
    > result.json
"""


class Scripts:
    """Spawns one shell script after the other, each in the job's folder; the last one again and again."""

    def __init__(self, *scripts: str) -> None:
        self.scripts = scripts
        self.jobs: list[str] = []
        self.pids: list[int] = []

    async def __call__(self, folder: JobFolder) -> Child:
        script = self.scripts[min(len(self.jobs), len(self.scripts) - 1)]
        process = await asyncio.create_subprocess_exec("sh", "-c", script, cwd=folder.path)
        self.jobs.append(folder.id)
        self.pids.append(process.pid)
        return Child(process)


async def until(condition: Callable[[], Any], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 (a file of another process has no event)
            await asyncio.sleep(0.01)


def status(folder: JobFolder) -> str:
    return str(folder.status["status"])


@asynccontextmanager
async def running(home: Path, *scripts: str, **options: Any) -> AsyncIterator[tuple[Jobs, FakePool, Scripts]]:
    spawn = Scripts(*scripts)
    base = home / "base"
    pool = FakePool({"tiny": base if base.exists() else fake_base(base)})
    jobs = Jobs(home, TrainingSettings(), pool, spawn=spawn, **options)
    await jobs.start()
    try:
        yield jobs, pool, spawn
    finally:
        await jobs.close()


async def test_a_finished_job_brings_its_model_into_the_pool(tmp_path: Path) -> None:
    async with running(tmp_path, SUCCEED) as (jobs, pool, _):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: status(folder) == "succeeded")
        model_id = folder.job["fine_tuned_model"]
        assert folder.status["fine_tuned_model"] == model_id
        assert pool.loaded == [ModelSettings(name=model_id, source=str(tmp_path / "models" / model_id))]
        messages = [event["message"] for event in folder.events()]
        assert messages[0].startswith("Created fine-tuning job")
        assert messages[-2:] == ["It is better.", f"New fine-tuned model created: {model_id}. It passed the gate."]


async def test_jobs_run_one_at_a_time_oldest_first(tmp_path: Path) -> None:
    wait = "while [ ! -e ../../go ]; do sleep 0.01; done;"
    async with running(tmp_path, wait + SUCCEED) as (jobs, _, spawn):
        folders = [await jobs.create(ORDER, make_rows()) for _ in range(3)]
        await until(lambda: spawn.pids)
        assert [status(folder) for folder in folders] == ["running", "queued", "queued"]
        (tmp_path / "go").touch()
        await until(lambda: status(folders[2]) == "succeeded")
        assert spawn.jobs == [folder.id for folder in folders]
        assert [folder.id for folder in jobs.list()] == spawn.jobs[::-1]


async def test_a_child_that_dies_is_started_again_twice_and_then_the_job_fails(tmp_path: Path) -> None:
    async with running(tmp_path, "kill -9 $$") as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: status(folder) == "failed")
        assert len(spawn.pids) == 3
        error = folder.status["error"]
        assert error["code"] == "worker_died"
        assert "died 3 times" in error["message"]
        assert "killed by SIGKILL" in error["message"]


async def test_a_child_that_gets_further_each_time_is_not_given_up(tmp_path: Path) -> None:
    deaths = [f"mkdir -p checkpoints/step-00000{i}; kill -9 $$" for i in range(1, 6)]
    async with running(tmp_path, *deaths, SUCCEED) as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: status(folder) == "succeeded")
        assert len(spawn.pids) == 6
        assert any("Going on from step 5" in event["message"] for event in folder.events())
        assert not folder.checkpoints.exists()


async def test_a_child_that_gives_up_is_not_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, REFUSE) as (jobs, pool, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: status(folder) == "failed")
        assert folder.status["error"] == {"message": "No more numbers.", "code": "non_finite_loss", "param": None}
        assert len(spawn.pids) == 1
        assert pool.loaded == []


async def test_cancel_ends_the_child_and_the_next_job_runs(tmp_path: Path) -> None:
    async with running(tmp_path, "mkdir checkpoints; exec " + FOREVER, SUCCEED) as (jobs, _, spawn):
        folder, after = [await jobs.create(ORDER, make_rows()) for _ in range(2)]
        await until(lambda: folder.checkpoints.exists() and spawn.pids)
        assert status(await jobs.cancel(folder.id)) == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.kill(spawn.pids[0], 0)
        assert not folder.checkpoints.exists()
        await until(lambda: status(after) == "succeeded")
        with pytest.raises(Conflict, match="already been cancelled"):
            await jobs.cancel(folder.id)
        with pytest.raises(Conflict, match="already succeeded"):
            await jobs.pause(after.id)


async def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    deaf = "trap '' TERM; touch deaf; while :; do sleep 0.05; done"
    async with running(tmp_path, deaf, stop_limit_s=0.2) as (jobs, _, _spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until((folder.path / "deaf").exists)
        assert status(await jobs.cancel(folder.id)) == "cancelled"


async def test_a_waiting_job_can_be_paused_resumed_and_cancelled(tmp_path: Path) -> None:
    async with running(tmp_path, "exec " + FOREVER) as (jobs, _, spawn):
        first, second = [await jobs.create(ORDER, make_rows()) for _ in range(2)]
        await until(lambda: len(spawn.pids) == 1)
        assert status(await jobs.pause(second.id)) == "paused"
        with pytest.raises(Conflict, match="already been paused"):
            await jobs.pause(second.id)
        assert status(await jobs.resume(second.id)) == "queued"
        with pytest.raises(Conflict, match="only a paused job can be resumed"):
            await jobs.resume(second.id)
        assert status(await jobs.cancel(second.id)) == "cancelled"
        assert status(first) == "running"


async def test_a_paused_job_lets_others_run_and_goes_on_later(tmp_path: Path) -> None:
    async with running(tmp_path, "exec " + FOREVER, SUCCEED) as (jobs, _, spawn):
        first, second = [await jobs.create(ORDER, make_rows()) for _ in range(2)]
        await until(lambda: len(spawn.pids) == 1)
        assert status(await jobs.pause(first.id)) == "paused"
        await until(lambda: status(second) == "succeeded")
        await jobs.resume(first.id)
        await until(lambda: status(first) == "succeeded")
        assert spawn.jobs == [first.id, second.id, first.id]


async def test_closing_stops_the_child_and_the_next_service_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, "mkdir -p checkpoints/step-000007; exec " + FOREVER) as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: folder.latest_step() == 7 and spawn.pids)
    with pytest.raises(ProcessLookupError):
        os.kill(spawn.pids[0], 0)
    assert status(folder) == "running"
    with (folder.path / "events.jsonl").open("a") as file:
        file.write('{"torn": ')  # as after a power cut
    async with running(tmp_path, SUCCEED):
        await until(lambda: status(folder) == "succeeded")
    messages = [event["message"] for event in folder.events()]
    assert "The service was restarted; the job goes on from step 7." in messages


async def test_a_job_that_ended_while_the_service_was_away_needs_no_child(tmp_path: Path) -> None:
    async with running(tmp_path, "exec " + FOREVER) as (jobs, _, spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: spawn.pids)
    process = await asyncio.create_subprocess_exec("sh", "-c", SUCCEED, cwd=folder.path)
    assert await process.wait() == 0
    async with running(tmp_path, "exit 1") as (_, pool, spawn):
        await until(lambda: status(folder) == "succeeded")
        assert spawn.pids == []
        assert len(pool.loaded) == 1


async def test_a_model_that_cannot_be_loaded_fails_the_job_with_the_reason(tmp_path: Path) -> None:
    class FullPool(FakePool):
        async def load(self, spec: ModelSettings, /) -> None:
            raise ModelFailed(spec.name, "no memory is left.")

    pool = FullPool({"tiny": fake_base(tmp_path / "base")})
    jobs = Jobs(tmp_path, TrainingSettings(), pool, spawn=Scripts(SUCCEED))
    await jobs.start()
    folder = await jobs.create(ORDER, make_rows())
    await until(lambda: status(folder) == "failed")
    await jobs.close()
    assert "no memory is left" in folder.status["error"]["message"]


async def test_a_model_that_has_no_room_now_is_trained_all_the_same(tmp_path: Path) -> None:
    class FullPool(FakePool):
        async def load(self, spec: ModelSettings, /) -> None:
            raise ModelNoRoom(spec.name, "it needs 3 GiB.")

    pool = FullPool({"tiny": fake_base(tmp_path / "base")})
    jobs = Jobs(tmp_path, TrainingSettings(), pool, spawn=Scripts(SUCCEED))
    await jobs.start()
    folder = await jobs.create(ORDER, make_rows())
    await until(lambda: status(folder) == "succeeded")
    await jobs.close()
    assert any(
        event["message"].endswith("now: it needs 3 GiB. It is loaded when somebody asks for it.")
        for event in folder.events()
    )


async def test_a_broken_job_folder_does_not_hold_up_the_next(tmp_path: Path) -> None:
    async with running(tmp_path, "echo '[]' > failure.json; exit 65", SUCCEED) as (jobs, _, _spawn):
        broken, after = [await jobs.create(ORDER, make_rows()) for _ in range(2)]
        await until(lambda: status(after) == "succeeded")
        assert status(broken) == "failed"


@pytest.mark.parametrize("job_id", ["ftjob-1", "../base", "ftjob-" + "0" * 16, ""])
async def test_only_ids_name_jobs(tmp_path: Path, job_id: str) -> None:
    jobs = Jobs(tmp_path, TrainingSettings(), FakePool({}))
    actions: list[Callable[[str], Awaitable[JobFolder]]] = [jobs.cancel, jobs.pause, jobs.resume]
    for action in actions:
        with pytest.raises(NotFound):
            await action(job_id)


def test_events_of_a_step_that_was_trained_again_appear_once(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    for step, loss in [(1, 3.0), (2, 2.5), (3, 2.2), (2, 2.5), (3, 2.1)]:
        folder.add_event(f"Step {step}/3: training loss={loss}", data={"step": step})
        folder.add_event(f"Held-out look at step {step}/3", data={"step": step})
    assert [event["message"] for event in folder.events()][-4::2] == [
        "Step 2/3: training loss=2.5",
        "Step 3/3: training loss=2.1",
    ]
    assert len(folder.events()) == 6


def test_a_half_written_file_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    durable.write_json(path, {"step": 1})
    with pytest.raises(ValueError):
        durable.write_json(path, {"step": float("nan")})
    assert durable.read_json(path) == {"step": 1}
    assert durable.read_json(tmp_path / "absent.json") is None
