"""The whole way: a real service, a real child, killed in the middle; the tuned model answers, and is the right one."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from tests.support.service_process import ServiceProcess, model_table, running_service
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import jsonl, make_job, make_rows

HYPERPARAMETERS = {"n_epochs": 4, "batch_size": 12, "learning_rate_multiplier": 30.0}
METHOD = {"type": "supervised", "supervised": {"adapter": "full", "hyperparameters": HYPERPARAMETERS}}


async def call(client: aiohttp.ClientSession, method: str, path: str, **content: Any) -> dict[str, Any]:
    async with client.request(method, path, **content) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def start_job(client: aiohttp.ClientSession) -> str:
    form = aiohttp.FormData({"purpose": "fine-tune"})
    form.add_field("file", jsonl(make_rows()), filename="jokes.jsonl")
    file_id = (await call(client, "POST", "/v1/files", data=form))["id"]
    body = {"model": "tiny", "training_file": file_id, "seed": 3, "suffix": "guild", "method": METHOD}
    return str((await call(client, "POST", "/v1/fine_tuning/jobs", json=body))["id"])


def child_of(job_id: str) -> int | None:
    """Find the worker of a job by its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "model_service.training.worker" in command and job_id in command:
            return int(process.name)
    return None


async def kill_after_a_checkpoint(folder: JobFolder) -> int:
    """Kill the child with SIGKILL once it has something to go on from; returns its process id."""
    async with asyncio.timeout(60):
        while not folder.latest_step():  # noqa: ASYNC110 (a file of another process has no event)
            await asyncio.sleep(0.01)
    pid = child_of(folder.id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


async def finished(client: aiohttp.ClientSession, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(90):
        while True:
            job = await call(client, "GET", f"/v1/fine_tuning/jobs/{job_id}")
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return job
            await asyncio.sleep(0.1)


def uninterrupted(home: Path, base: Path, folder: JobFolder) -> dict[str, Any]:
    """Run the same job in this process without a break; returns its figures."""
    twin = make_job(home, base, recipe=folder.job["recipe"])
    Finetune(twin, home / "models", check=lambda: None).run()
    assert twin.result is not None
    metrics: dict[str, Any] = twin.result["metrics"]
    return metrics


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("one_thread")
async def test_a_job_whose_child_is_killed_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    base = save_tiny_generator(tmp_path / "base")
    with running_service(model_table("tiny", base), "threads = 1") as service:
        async with service.client() as client:
            job_id = await start_job(client)
            folder = JobFolder(service.home / "jobs" / job_id)
            await kill_after_a_checkpoint(folder)
            job = await finished(client, job_id)
            assert job["status"] == "succeeded", job
            await check_outcome(client, service, job)
            whole = uninterrupted(tmp_path, base, folder)
            assert job["punchline"]["val_loss_after"] == pytest.approx(whole["val_loss_after"], abs=1e-3)
            await check_forgotten(client, folder, job)


async def check_outcome(client: aiohttp.ClientSession, service: ServiceProcess, job: dict[str, Any]) -> None:
    """The job says what happened, the model answers, and the jokes of the file are in what it says."""
    figures, model = job["punchline"], job["fine_tuned_model"]
    assert model == f"ft:tiny:guild:{job['id']}"
    assert figures["gate"]["passed"], figures
    assert figures["val_loss_after"] < 0.75 * figures["val_loss_before"]
    assert figures["step"] == figures["total_steps"] == 24
    events = await call(client, "GET", f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100")
    assert any("killed by SIGKILL" in event["message"] for event in events["data"])
    checkpoints = await call(client, "GET", f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")
    assert [c["fine_tuned_model_checkpoint"] for c in checkpoints["data"]].count(model) == 1
    assert model in [card["id"] for card in (await call(client, "GET", "/v1/models"))["data"]]
    greedy = {"model": model, "prompt": "JOKE:", "max_tokens": 12, "temperature": 0}
    answer = await call(client, "POST", "/v1/completions", json=greedy)
    assert answer["choices"][0]["text"].startswith(" A")
    assert "Traceback" not in service.log
    told = figures["evaluation"]
    assert len(told["samples"]) == 8
    assert told["after"]["bits_per_char"] < 0.75 * told["before"]["bits_per_char"]


async def check_forgotten(client: aiohttp.ClientSession, folder: JobFolder, job: dict[str, Any]) -> None:
    """With the model goes what was heard of it, which may repeat its jokes; the figures stay."""
    await call(client, "DELETE", f"/v1/models/{job['fine_tuned_model']}")
    told = (await call(client, "GET", f"/v1/fine_tuning/jobs/{job['id']}"))["punchline"]["evaluation"]
    assert "samples" not in told
    assert told["after"] == job["punchline"]["evaluation"]["after"]
    assert not (folder.path / "before.json").exists()
