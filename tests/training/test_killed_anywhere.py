"""A job that is killed before or after anything it writes, or stopped while it is judged, ends like one that is not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model_service.training import durable, registry
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.stops import Interrupted
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import make_job

pytestmark = pytest.mark.usefixtures("one_thread")
MOST_DEATHS = 60
WRITES_OF_A_STEP = 8  # and those before the first one


class Killed(BaseException):
    """What kill -9 is to a process: nothing catches it."""


@contextmanager
def killed_at(write: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Die at a write to the disk, counted from 1: before the odd ones, after the even ones."""
    count = 0

    def deadly(work: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any, **options: Any) -> None:
            nonlocal count
            count += 1
            mine = count
            if mine == write and write % 2:
                raise Killed
            work(*args, **options)
            if mine == write:
                raise Killed

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("publish", "write_text"):
            patched.setattr(durable, name, deadly(getattr(durable, name)))
        yield


def train(folder: JobFolder, home: Path, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run a job to its end, with a checkpoint after each step; returns result.json."""
    Finetune(folder, home / "models", check=check, checkpoint_every_s=0.0).run()
    assert folder.result
    return folder.result


def test_a_job_that_dies_again_and_again_at_each_of_its_writes_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_tiny_generator(tmp_path / "base")
    jobs = [make_job(tmp_path, base, n_epochs=1, adapter="lora", learning_rate_multiplier=10.0) for _ in range(2)]
    whole, folder = train(jobs[0], tmp_path), jobs[1]
    last_step, write, died_at = int(jobs[0].progress["total_steps"]), 0, list[int]()
    while folder.result is None:
        assert len(died_at) < MOST_DEATHS, "it gets further each time"
        is_judged = folder.latest_step() == last_step
        write = died_at.count(last_step) + 1 if is_judged else write % WRITES_OF_A_STEP + 1
        try:
            with killed_at(write, monkeypatch):
                train(folder, tmp_path)
        except Killed:
            died_at.append(folder.latest_step())
    assert len(set(died_at)) > 3, "at several steps"
    assert died_at.count(last_step) > 1, "and while it was judged"
    assert folder.result["metrics"] == pytest.approx(whole["metrics"], abs=1e-5)
    assert folder.result["trained_tokens"] == whole["trained_tokens"]
    assert len(registry.finished(tmp_path / "models")) == 2
    assert not list((tmp_path / "models").glob(".aside-*"))
    assert len(list(folder.checkpoints.glob("step-*"))) <= 2
    assert not list(folder.checkpoints.glob("tmp-*"))


def test_a_run_that_is_stopped_while_it_is_judged_goes_on_with_that(tmp_path: Path) -> None:
    folder = make_job(tmp_path, save_tiny_generator(tmp_path / "base"), n_epochs=1)

    def while_judged() -> None:
        if any("Judging it now" in event["message"] for event in folder.events()):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(folder, tmp_path, while_judged)
    last = folder.latest_step()
    assert (last, folder.result) == (folder.progress["total_steps"], None)
    assert train(folder, tmp_path)["fine_tuned_model"] == folder.job["fine_tuned_model"]
    assert folder.latest_step() == last
    assert len(registry.finished(tmp_path / "models")) == 1
