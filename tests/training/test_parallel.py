"""Two processes train like one with the same batch: under torchrun, over gloo, from and into the same job folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model_service.training import registry
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.parallel import Group
from model_service.training.stops import TrainingFailed
from tests.support.service_process import environment
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import make_job

pytestmark = pytest.mark.usefixtures("one_thread")
PROCESSES, LIMIT_S = 2, 120


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout: each process would draw its own."""
    return save_tiny_generator(tmp_path_factory.mktemp("base"), attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)


@contextmanager
def two_processes(folder: JobFolder, home: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a job's worker under torchrun while the block runs; what they say is in the log."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    worker = ["-m", "model_service.training.worker", str(folder.path), "--models", str(home / "models")]
    command = [*torchrun, *worker, *more]
    with (home / "log").open("a") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pid in workers_of(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def run_in_two_processes(folder: JobFolder, home: Path, *more: str) -> tuple[int, str]:
    """Run a job's worker under torchrun to its end; returns the exit code, and what they said."""
    with two_processes(folder, home, *more) as process:
        code = process.wait(LIMIT_S)
    return code, (home / "log").read_text()


def workers_of(folder: JobFolder) -> list[int]:
    """Find the processes that train a job, torchrun included, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder.path).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_two_processes_learn_what_one_learns(base: Path, tmp_path: Path, adapter: str) -> None:
    options: dict[str, Any] = {"adapter": adapter, "learning_rate_multiplier": 10.0, "batch_size": 30}
    together, alone = make_job(tmp_path, base, **options), make_job(tmp_path, base, **options)
    code, said = run_in_two_processes(together, tmp_path, "--checkpoint-every-s", "0")
    assert code == 0, said
    Finetune(alone, tmp_path / "models", check=lambda: None).run()
    assert together.result
    assert alone.result
    assert together.result["metrics"] == pytest.approx(alone.result["metrics"], abs=1e-3)
    assert together.result["trained_tokens"] == alone.result["trained_tokens"]
    losses = [
        [event["data"]["train_loss"] for event in folder.events() if "train_loss" in (event["data"] or {})]
        for folder in (together, alone)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    weights = [
        load_file(next((tmp_path / "models" / folder.job["fine_tuned_model"]).glob("*model.safetensors")))
        for folder in (together, alone)
    ]
    assert weights[0].keys() == weights[1].keys()
    manifests = [tuned.manifest for tuned in registry.finished(tmp_path / "models")]
    assert len(manifests) == 2
    messages = [json.dumps(event["message"]) for event in together.events()]
    assert len(messages) == len(set(messages)), "only the first process speaks"


@pytest.mark.timeout(240)
def test_no_process_outlives_its_service_or_its_torchrun_and_the_job_ends_as_if_nothing_had_happened(
    base: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"learning_rate_multiplier": 10.0, "batch_size": 10, "n_epochs": 4, "adapter": "lora"}
    folder, alone = make_job(tmp_path, base, **options), make_job(tmp_path, base, **options)
    often = ("--checkpoint-every-s", "0")
    with (
        subprocess.Popen(["sleep", "1000"]) as service,
        two_processes(folder, tmp_path, *often, "--parent", str(service.pid)) as torchrun,
    ):
        until(folder.latest_step)
        service.kill()
        service.wait()
        assert torchrun.wait(LIMIT_S) != 0
        until(lambda: not workers_of(folder))
    first = folder.latest_step()
    assert first
    with two_processes(folder, tmp_path, *often) as torchrun:
        until(lambda: folder.latest_step() > first)
        torchrun.kill()
        torchrun.wait()
        until(lambda: not workers_of(folder))
    assert folder.result is None, "it was killed in the middle"
    for job in (folder, alone):  # one process goes on where two were
        Finetune(job, tmp_path / "models", check=lambda: None).run()
    assert folder.result
    assert alone.result
    assert folder.result["metrics"] == pytest.approx(alone.result["metrics"], abs=1e-3)


def test_an_orphan_that_is_stuck_is_killed(tmp_path: Path) -> None:
    stuck = (
        "import threading, time; from model_service.training import worker;"
        "worker.ORPHAN_LOOK_S = worker.ORPHAN_LIMIT_S = 0.1;"
        "worker._end_if_stuck(lambda: True, threading.Event()); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", stuck], env=environment(), capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_more_processes_than_gpus_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingFailed, match=r"training.processes is 2, but the GPUs here are only 1") as raised:
        Group.from_environment()
    assert raised.value.code == "too_few_devices"


def test_every_row_is_somebodys_and_nobody_has_more_than_the_others() -> None:
    for num_rows in range(1, 20):
        for size in range(1, 5):
            taken = []
            for rank in range(size):
                first, most = Group(rank, size).share(num_rows)
                taken += [row for row in range(first, first + most) if row < num_rows]
            assert sorted(taken) == list(range(num_rows))
            assert most == -(-num_rows // size)


def test_one_alone_agrees_with_itself() -> None:
    group = Group()
    assert (group.leads, group.total(2.5), group.agree(True, False)) == (True, 2.5, [True, False])
