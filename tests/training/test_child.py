"""The process that trains a job: how it is started, what it is told, how its end is said."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from model_service.config import TrainingSettings
from model_service.training.child import Child, describe_exit
from model_service.training.folder import JobFolder
from model_service.training.orders import Order, Rows, Start, write_job
from model_service.training.preferences import Preferred
from tests.support.training_jobs import fake_base, make_rows
from tests.training.test_jobs import ORDER, until


async def test_the_childs_command_shows_the_worker_and_its_environment_has_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    command, environment = await child_of(written(tmp_path, ORDER), TrainingSettings(threads=3))
    assert b"model_service.training.worker" in command
    assert b"secret" not in environment
    assert b"OMP_NUM_THREADS=3" in environment
    assert b"HF_HUB_OFFLINE=1" in environment


async def test_the_child_is_nicer_than_the_service_and_is_told_how_long_to_rest(tmp_path: Path) -> None:
    folder = written(tmp_path, ORDER)
    child = await Child.start(folder, tmp_path / "models", TrainingSettings(nice=7, rest=2.5), 30.0)
    process, ours = Path(f"/proc/{child.pid}"), os.getpriority(os.PRIO_PROCESS, 0)
    await until(lambda: os.getpriority(os.PRIO_PROCESS, child.pid) == min(ours + 7, 19))
    command = (process / "cmdline").read_bytes().split(b"\0")
    await child.stop(5)
    assert command[command.index(b"--rest") + 1] == b"2.5"


async def test_several_processes_are_started_by_torchrun_and_stopped_with_it(tmp_path: Path) -> None:
    words = (await child_of(written(tmp_path, ORDER), TrainingSettings(processes=2)))[0].split(b"\0")
    place = words.index(b"--nproc-per-node")
    assert words[place + 1 : place + 4] == [b"2", b"-m", b"model_service.training.worker"]


async def test_a_method_that_one_process_trains_says_so_where_several_are_set(tmp_path: Path) -> None:
    rows = [Preferred("JOKE:", row.completion, f"{row.completion} Or not.") for row in make_rows()]
    folder = written(tmp_path, replace(ORDER, method="dpo"), rows)
    command, _ = await child_of(folder, TrainingSettings(processes=2))
    assert b"torch.distributed.run" not in command
    assert folder.events()[-1]["message"] == "One process trains this: training.processes (2) counts for jokes only."


def written(home: Path, order: Order, rows: Rows | None = None) -> JobFolder:
    """Write a job's folder."""
    return write_job(home / "jobs", order, Start(fake_base(home / "base"), "tiny"), rows or make_rows(), None)


async def child_of(folder: JobFolder, settings: TrainingSettings) -> tuple[bytes, bytes]:
    """Start a real child, and return its command line and its environment; it is stopped again."""
    child = await Child.start(folder, folder.path.parent / "models", settings, 30.0)
    process = Path(f"/proc/{child.pid}")
    await until(lambda: b"worker" in (process / "cmdline").read_bytes())
    found = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
    await child.stop(5)
    return found


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")]
)
def test_an_exit_is_said_in_words(code: int, words: str) -> None:
    assert words in describe_exit(code)
