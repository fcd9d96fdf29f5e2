"""Real fine-tunes of a tiny GPT-2, in this process: they learn, resume exactly, stop clearly, write whole models."""

import errno
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from model_service.training import base_model, durable, registry, worker
from model_service.training.evaluate import sample
from model_service.training.examples import Row, fingerprint
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.loop import Interrupted, TrainingFailed
from model_service.training.recipe import Recipe
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import make_job, make_rows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"), resid_pdrop=0.1, embd_pdrop=0.1)


def finetune(
    home: Path, folder: JobFolder, check: Callable[[], None] = lambda: None, every_s: float = 0.0
) -> dict[str, Any]:
    """Run a job to its end; returns result.json."""
    Finetune(folder, home / "models", check=check, checkpoint_every_s=every_s).run()
    assert folder.result is not None
    return folder.result


def stop_after(calls: int) -> Callable[[], None]:
    """Return a check that interrupts at its n-th call."""
    left = iter(range(calls))

    def check() -> None:
        if next(left, None) is None:
            raise Interrupted

    return check


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobFolder, registry.TunedModel]:
    """One run that nothing disturbed."""
    home = tmp_path_factory.mktemp("done")
    folder = make_job(home, base, suffix="guild-1", learning_rate_multiplier=20.0)
    finetune(home, folder)
    (tuned,) = registry.finished(home / "models")
    return folder, tuned


def check_learned(result: dict[str, Any], tuned: Path, base: Path) -> None:
    """Held-out loss is down, the gate says so, and the file is one that is served like any other."""
    assert result["metrics"]["val_loss_after"] < 0.8 * result["metrics"]["val_loss_before"]
    assert result["gate"]["passed"], result["gate"]["reasons"]
    weights, before = (load_file(path / "model.safetensors") for path in (tuned, base))
    assert weights.keys() == before.keys()
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert any(not torch.equal(weights[name], before[name]) for name in weights)
    assert AutoModelForCausalLM.from_pretrained(tuned).config.n_layer == 2


def test_full_training_lowers_the_held_out_loss(done: tuple[JobFolder, registry.TunedModel], base: Path) -> None:
    folder, tuned = done
    assert folder.result is not None
    check_learned(folder.result, tuned.folder, base)


def test_the_manifest_says_where_the_model_came_from(done: tuple[JobFolder, registry.TunedModel]) -> None:
    folder, tuned = done
    manifest, rows = tuned.manifest, make_rows()
    assert tuned.folder.name == tuned.id == f"ft:tiny:guild-1:{folder.id}"
    assert {entry["id"] for entry in manifest["examples"]} == {row.id for row in rows}
    assert {entry["sha256"] for entry in manifest["examples"]} == {fingerprint(row) for row in rows}
    assert {entry["side"] for entry in manifest["examples"]} == {"train", "held_out"}
    assert manifest["base"] == manifest["started_from"] == "tiny"
    assert manifest["seed"] == manifest["hyperparameters"]["seed"] == 3
    assert len(manifest["started_from_sha256"]) == 64
    assert manifest["code_version"].startswith("0.")
    assert manifest["gate"] == (folder.result or {})["gate"]


def test_old_and_new_model_are_measured_and_heard_alike(
    done: tuple[JobFolder, registry.TunedModel], base: Path
) -> None:
    result = done[0].result
    assert result is not None
    told, metrics = result["evaluation"], result["metrics"]
    before, after = told["before"], told["after"]
    assert (before["loss"], after["loss"]) == (metrics["val_loss_before"], metrics["val_loss_after"])
    assert after["general_loss"] == metrics["general_loss_after"]
    assert after["verbatim_rate"] == metrics["verbatim_rate"]
    ratio = before["bits_per_char"] / before["loss"]  # a token is a byte here, so little more than 1 / ln 2
    assert 1.44 < ratio < 1.6
    assert after["bits_per_char"] == pytest.approx(after["loss"] * ratio)
    assert after["general_bits_per_char"] == pytest.approx(after["general_loss"] / math.log(2), rel=0.05)
    assert all(0 <= each["distinct_2"] <= 1 and each["filter_hits"] >= 0 for each in (before, after))
    assert [pair["seed"] for pair in told["samples"]] == list(range(3, 11))
    assert (told["prompt"], told["num_samples"]) == ("JOKE:", 32)
    for folder, side in ((base, "before"), (done[1].folder, "after")):
        model = base_model.load_base(folder, torch.device("cpu"))
        said = sample(model.model, model.tokenizer, "JOKE:", eos_token_id=model.eos_token_id, seed=3, n=8)
        assert [pair[side] for pair in told["samples"]] == [text.strip() for text in said]


def test_a_tuned_model_can_be_tuned_again_under_the_name_of_its_first_base(
    done: tuple[JobFolder, registry.TunedModel], tmp_path: Path
) -> None:
    again = make_job(tmp_path, done[1].folder, model=done[1].id)
    assert again.job["fine_tuned_model"] == f"ft:tiny::{again.id}"
    assert again.job["request"]["model"] == done[1].id


def test_an_interrupted_run_ends_like_one_that_was_not(
    done: tuple[JobFolder, registry.TunedModel], base: Path, tmp_path: Path
) -> None:
    whole = done[0].result
    assert whole is not None
    folder = make_job(tmp_path, base, learning_rate_multiplier=20.0)
    for calls in (1, 9, 6):  # also in the middle of looks
        with pytest.raises(Interrupted):
            finetune(tmp_path, folder, stop_after(calls))
    torn = folder.checkpoints / "tmp-000999"  # and one that a power cut left half written
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    pieces = finetune(tmp_path, folder)
    assert pieces["metrics"] == pytest.approx(whole["metrics"], abs=1e-5)
    assert pieces["trained_tokens"] == whole["trained_tokens"]
    heard = [[pair["before"] for pair in result["evaluation"]["samples"]] for result in (pieces, whole)]
    assert heard[0] == heard[1]
    assert not torn.exists()


def test_checkpoints_are_pruned(done: tuple[JobFolder, registry.TunedModel]) -> None:
    names = sorted(path.name.split("-")[0] for path in done[0].checkpoints.iterdir())
    assert names.count("step") == 2
    assert 1 <= names.count("best") <= 2


def test_a_loss_that_is_not_finite_stops_with_a_sentence_and_writes_nothing(base: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base, recipe={"learning_rate": 1e30})
    with pytest.raises(TrainingFailed, match=r"no longer a finite number.*old model is untouched") as raised:
        finetune(tmp_path, folder)
    assert raised.value.code == "non_finite_loss"
    assert folder.result is None
    assert registry.finished(tmp_path / "models") == []
    for path in folder.checkpoints.rglob("*.safetensors"):
        assert all(torch.isfinite(w).all() for w in load_file(path).values()), path


def test_a_base_with_broken_weights_is_refused_before_training(base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in base.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(base / "model.safetensors")
    weights["transformer.ln_f.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    folder = make_job(tmp_path, broken)
    with pytest.raises(TrainingFailed, match="model it started from"):
        finetune(tmp_path, folder)


def test_a_base_that_was_deleted_meanwhile_is_named(base: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base)
    job = folder.job | {"base_folder": str(tmp_path / "gone")}
    durable.write_json(folder.path / "job.json", job)
    with pytest.raises(TrainingFailed, match="tiny, is no longer there"):
        finetune(tmp_path, folder)


@pytest.mark.usefixtures("own_signals")
def test_a_full_disk_is_said_and_nothing_is_left_half_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, base)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(registry.durable, "publish", full)
    assert worker.main([str(folder.path), "--models", str(tmp_path / "models")]) == worker.REFUSED
    assert folder.failure is not None
    assert "The disk is full" in folder.failure["message"]
    assert registry.finished(tmp_path / "models") == []


def test_weights_that_overflow_when_rounded_are_never_published(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(model: Any, at: base_model.Base, recipe: Recipe, folder: Path) -> None:
        model.transformer.ln_f.weight.data[0] = 70_000.0  # FP16 ends at 65,504
        base_model.write_model(model, replace(at, dtype=torch.float16), recipe, folder)

    monkeypatch.setattr("model_service.training.finetune.write_model", overflowing)
    folder = make_job(tmp_path, base, n_epochs=1)
    with pytest.raises(TrainingFailed, match="weights are not finite") as raised:
        finetune(tmp_path, folder)
    assert raised.value.code == "non_finite_weights"
    assert folder.result is None
    assert list((tmp_path / "models").iterdir()) == []


def test_jokes_longer_than_the_context_are_counted_and_reported(base: Path, tmp_path: Path) -> None:
    long = [Row("JOKE:", f" A {'very ' * 30}long joke {i}") for i in range(8)]
    folder = make_job(tmp_path, base, rows=[*make_rows(), *long], n_epochs=1)
    finetune(tmp_path, folder)
    counts = folder.progress["counts"]
    assert counts["too_long"] == 8
    assert counts["train"] + counts["held_out"] == 100
    assert any("8 too long" in event["message"] for event in folder.events())


def test_too_few_that_fit_the_context_fail_with_the_numbers(base: Path, tmp_path: Path) -> None:
    long = [Row("JOKE:", f" A {'very ' * 30}long joke {i}") for i in range(100)]
    folder = make_job(tmp_path, base, rows=[*make_rows(30), *long])
    with pytest.raises(TrainingFailed, match="at least 50 and 20 are needed") as raised:
        finetune(tmp_path, folder)
    assert raised.value.code == "too_few_examples"


@pytest.mark.usefixtures("own_signals")
def test_sigterm_ends_the_worker_at_a_checkpoint_and_it_goes_on_from_there(base: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base)
    arguments = [str(folder.path), "--models", str(tmp_path / "models"), "--checkpoint-every-s", "1000"]

    def terminate_after_a_step() -> None:
        deadline = time.monotonic() + 30
        while not folder.progress.get("step") and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=terminate_after_a_step)
    watcher.start()
    assert worker.main(arguments) == worker.INTERRUPTED
    watcher.join()
    assert folder.latest_step() > 0
    assert folder.result is None
    assert worker.main(arguments) == worker.DONE
    assert folder.result is not None


@pytest.mark.usefixtures("own_signals")
def test_a_worker_whose_service_is_gone_stops(base: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base)
    code = worker.main([str(folder.path), "--models", str(tmp_path / "models"), "--parent", "999999999"])
    assert code == worker.INTERRUPTED


@pytest.mark.usefixtures("own_signals")
def test_a_worker_that_gives_up_leaves_its_sentence(base: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base)
    folder.write_rows("train", make_rows(10))
    assert worker.main([str(folder.path), "--models", str(tmp_path / "models")]) == worker.REFUSED
    assert folder.failure is not None
    assert folder.failure["code"] == "too_few_examples"
    assert folder.failure["message"].startswith("There are 10 jokes to train on")
