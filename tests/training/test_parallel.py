"""Two processes train like one with the same batch: under torchrun, over gloo, from and into the same job folder."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from model_service.training import registry
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.parallel import Group
from tests.support.service_process import environment
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import make_job

pytestmark = pytest.mark.usefixtures("one_thread")
PROCESSES, LIMIT_S = 2, 120


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout: each process would draw its own."""
    return save_tiny_generator(tmp_path_factory.mktemp("base"), attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)


def run_in_two_processes(folder: JobFolder, home: Path, *more: str) -> tuple[int, str]:
    """Run a job's worker under torchrun; returns the exit code, and what they said."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    worker = ["-m", "model_service.training.worker", str(folder.path), "--models", str(home / "models")]
    command = [*torchrun, *worker, *more]
    with (home / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, (home / "log").read_text()


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
