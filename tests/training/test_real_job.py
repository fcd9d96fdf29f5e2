"""The whole way: a real service, a real child, killed in the middle; the tuned model answers, and is the right one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from tests.support.service_process import ServiceProcess, environment, model_table, running_service, wait_for_answer
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import jsonl, make_job, make_rows

HYPERPARAMETERS = {"n_epochs": 4, "batch_size": 12, "learning_rate_multiplier": 30.0}


async def call(client: aiohttp.ClientSession, method: str, path: str, **content: Any) -> dict[str, Any]:
    async with client.request(method, path, **content) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def start_job(client: aiohttp.ClientSession, adapter: str) -> str:
    form = aiohttp.FormData({"purpose": "fine-tune"})
    form.add_field("file", jsonl(make_rows()), filename="jokes.jsonl")
    file_id = (await call(client, "POST", "/v1/files", data=form))["id"]
    method = {"type": "supervised", "supervised": {"adapter": adapter, "hyperparameters": HYPERPARAMETERS}}
    body = {"model": "tiny", "training_file": file_id, "seed": 3, "suffix": "guild", "method": method}
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


async def has_a_checkpoint(folder: JobFolder) -> None:
    """Wait until a job has something to go on from."""
    async with asyncio.timeout(60):
        while not folder.latest_step():  # noqa: ASYNC110 (a file of another process has no event)
            await asyncio.sleep(0.01)


async def kill_child(folder: JobFolder) -> None:
    """Kill the worker of a job with SIGKILL."""
    await has_a_checkpoint(folder)
    pid = child_of(folder.id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@contextmanager
def restarted(service: ServiceProcess) -> Iterator[ServiceProcess]:
    """Kill a service with SIGKILL, as a machine that goes down would, and start another on its home."""
    service.process.kill()
    service.process.wait()
    with (service.home / "log").open("ab") as log:
        command = [sys.executable, "-m", "model_service", "serve"]
        process = subprocess.Popen(command, cwd=service.home, env=environment(), stdout=log, stderr=log)
    try:
        again = replace(service, process=process)
        wait_for_answer(again, str(again.socket_path), "/health/ready")
        yield again
    finally:
        process.kill()
        process.wait()


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


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("one_thread")
async def test_jobs_whose_child_or_service_is_killed_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    base = save_tiny_generator(tmp_path / "base")
    with running_service(model_table("tiny", base), "threads = 1") as service:
        async with service.client() as client:
            jobs = [await start_job(client, adapter) for adapter in ("full", "lora")]
            folders = [JobFolder(service.home / "jobs" / job_id) for job_id in jobs]
            await kill_child(folders[0])
            await check_outcome(client, service, await finished(client, jobs[0]), base, "killed by SIGKILL")
            await has_a_checkpoint(folders[1])
        with restarted(service) as again:
            async with again.client() as client:
                await check_outcome(client, again, await finished(client, jobs[1]), base, "The service was restarted")
                for folder in folders:
                    await check_forgotten(client, again, folder)


async def check_outcome(
    client: aiohttp.ClientSession, service: ServiceProcess, job: dict[str, Any], base: Path, trouble: str
) -> None:
    """It ended like one that nobody killed, says what happened, and the model says jokes like those of the file."""
    assert job["status"] == "succeeded", job
    whole = uninterrupted(base.parent / job["id"], base, JobFolder(service.home / "jobs" / job["id"]))
    assert job["punchline"]["val_loss_after"] == pytest.approx(whole["val_loss_after"], abs=1e-3)
    figures, model = job["punchline"], job["fine_tuned_model"]
    assert model == f"ft:tiny:guild:{job['id']}"
    assert figures["gate"]["passed"], figures
    assert figures["val_loss_after"] < 0.75 * figures["val_loss_before"]
    assert figures["step"] == figures["total_steps"] == 24
    events = await call(client, "GET", f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100")
    assert any(trouble in event["message"] for event in events["data"])
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


async def check_forgotten(client: aiohttp.ClientSession, service: ServiceProcess, folder: JobFolder) -> None:
    """With the model goes what was heard of it, which may repeat its jokes; the figures stay."""
    job = await call(client, "GET", f"/v1/fine_tuning/jobs/{folder.id}")
    await call(client, "DELETE", f"/v1/models/{job['fine_tuned_model']}")
    told = (await call(client, "GET", f"/v1/fine_tuning/jobs/{job['id']}"))["punchline"]["evaluation"]
    assert "samples" not in told
    assert told["after"] == job["punchline"]["evaluation"]["after"]
    assert not list((service.home / "models").glob(f"*{folder.id}*"))
    texts = [path.read_text(errors="replace") for path in folder.path.rglob("*") if path.is_file()]
    assert not [text for text in texts if "walks into" in text], "none of the jokes is left in any file of the job"
