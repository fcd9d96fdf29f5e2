"""Too little memory, numbers that are none, a disk that is full: said clearly, and the old model is untouched."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from model_service.errors import RequestRefused
from model_service.training import disk, durable, registry, worker
from model_service.training.base_model import load_base
from model_service.training.checkpoints import Checkpoints
from model_service.training.dataset import Encoded, Example, collate, encode
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.loop import Loop, TrainingFailed
from model_service.training.loss import packed_loss
from model_service.training.objective import Look, Material
from model_service.training.out_of_memory import is_out_of_memory
from model_service.training.recipe import Recipe
from tests.support.service_process import environment
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import make_job, make_rows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"), attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)


def prepare(model: Any, fails: Callable[[int], BaseException | None]) -> None:
    """Let the training of a model fail like a device without room. fails: told the rows that go through."""

    def look_at(embedding: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if embedding.training and (error := fails(len(args[0]))):
            raise error

    model.get_input_embeddings().register_forward_pre_hook(look_at)


def run(
    base: Path,
    folder: JobFolder,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[int], BaseException | None],
) -> dict[str, Any]:
    """Run a job whose model fails now and then; returns result.json."""

    def load(*args: Any, **options: Any) -> Any:
        loaded = load_base(*args, **options)
        prepare(loaded.model, fails)
        return loaded

    monkeypatch.setattr("model_service.training.opening.load_base", load)
    Finetune(folder, home / "models", check=lambda: None).run()
    assert folder.result is not None
    return folder.result


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_too_little_memory_halves_the_rows_keeps_the_batch_and_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    more: dict[str, Any] = {"adapter": adapter, "batch_size": 24, "n_epochs": 3}

    def no_room(rows: int) -> BaseException | None:
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.") if rows > 3 else None

    small = make_job(tmp_path, base, **more)
    cramped = run(base, small, tmp_path, monkeypatch, no_room)
    whole = run(base, make_job(tmp_path, base, **more), tmp_path, monkeypatch, lambda _: None)
    assert cramped["metrics"] == pytest.approx(whole["metrics"], abs=1e-4)
    assert cramped["trained_tokens"] == whole["trained_tokens"]
    warnings = [event["message"] for event in small.events() if event["level"] == "warn"]
    assert [int(words.split("at most ")[1].split()[0]) for words in warnings] == [4, 2]
    assert "ran out of memory at step 1" in warnings[0]
    assert "A step still learns from 24 examples." in warnings[0]


def test_what_does_not_fit_row_by_row_is_refused_with_what_helps(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, base)
    with pytest.raises(TrainingFailed, match=r"single row.*gradient_checkpointing.*untouched") as raised:
        run(base, folder, tmp_path, monkeypatch, lambda rows: MemoryError())
    assert raised.value.code == "out_of_memory"
    assert registry.finished(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_processors_own_refusal_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_gradient_checkpointing_keeps_less_for_the_way_back(base: Path, adapter: Literal["lora", "full"]) -> None:
    kept = {True: 0, False: 0}
    for checkpointing in kept:
        recipe = Recipe(adapter, 1, 8, 1e-4, seed=0, gradient_checkpointing=checkpointing)
        model = load_base(base, torch.device("cpu"), recipe).model.train()
        weights = {parameter.data_ptr() for parameter in model.parameters()}

        def keep(
            tensor: torch.Tensor, checkpointing: bool = checkpointing, weights: set[int] = weights
        ) -> torch.Tensor:
            kept[checkpointing] += 0 if tensor.data_ptr() in weights else tensor.nbytes
            return tensor

        row = collate([[Encoded(list(range(60)), 1)]], 60, 0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            packed_loss(model, row, "sum").backward()
    assert kept[True] < kept[False] / 2


def test_gradient_checkpointing_does_not_change_the_result(base: Path, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        job = make_job(tmp_path, base, n_epochs=1, gradient_checkpointing=checkpointing, adapter="lora")
        Finetune(job, tmp_path / "models", check=lambda: None).run()
        assert job.result
        found.append(job.result["metrics"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


class Quiet:
    """A report that only keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        pass

    def look(self, look: Look, total_steps: int, is_best: bool) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_numbers_that_are_none_end_a_run_at_its_last_finite_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    folder = make_job(tmp_path, base, adapter=adapter, learning_rate_multiplier=10.0)
    steps = Recipe.lr_at

    def explodes(self: Recipe, step: int, total_steps: int) -> float:
        return 1e30 if step == 10 else steps(self, step, total_steps)

    monkeypatch.setattr(Recipe, "lr_at", explodes)
    Finetune(folder, tmp_path / "models", check=lambda: None, checkpoint_every_s=0.0).run()
    (warning,) = [event["message"] for event in folder.events() if event["level"] == "warn"]
    assert "no longer" in warning
    assert "ends at the last finite checkpoint: what was best until then, step 9, is judged" in warning
    assert folder.result
    assert folder.result["metrics"]["best_step"] == 9
    assert folder.result["metrics"]["val_loss_after"] < folder.result["metrics"]["val_loss_before"]
    (tuned,) = registry.finished(tmp_path / "models")
    for path in [*folder.checkpoints.rglob("*.safetensors"), *tuned.folder.glob("*.safetensors")]:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


def train_with_a_limit(folder: JobFolder, home: Path, limit_bytes: int) -> int:
    """Run the real worker in a process none of whose files may grow beyond the limit; returns its exit code."""
    worker_on = [sys.executable, "-m", "model_service.training.worker", str(folder.path)]
    with (home / "log").open("ab") as log:
        return subprocess.run(
            [*worker_on, "--models", str(home / "models"), "--checkpoint-every-s", "0"],
            env=environment() | {"HF_DATASETS_CACHE": str(folder.path / "cache")},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
            stderr=log,
            timeout=80,
        ).returncode


def test_a_disk_that_is_full_is_said_and_the_old_model_is_untouched(base: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    folder = make_job(tmp_path, base)
    assert train_with_a_limit(folder, tmp_path, 100_000) == worker.REFUSED, (tmp_path / "log").read_text()
    assert folder.failure is not None
    assert folder.failure["code"] == "disk_full"
    assert "disk is full" in folder.failure["message"]
    assert "old model is untouched" in folder.failure["message"]
    assert registry.finished(tmp_path / "models") == []
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    assert train_with_a_limit(folder, tmp_path, 100_000_000) == worker.DONE, "with room it goes on"


@pytest.mark.usefixtures("own_signals")
def test_a_disk_too_full_for_a_sentence_gets_room_for_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = make_job(tmp_path, base, n_epochs=1), durable.write_json
    halves = [folder.checkpoints / "tmp-000099", tmp_path / "models" / f".aside-ft:tiny::{folder.id}"]

    def full(path: Path, value: Any, **options: Any) -> None:
        if path.name == "result.json":
            for half in halves:
                half.mkdir()
                (half / "weights.safetensors").write_bytes(b"half")
        if path.name in ("result.json", "failure.json") and any(half.exists() for half in halves):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, value, **options)

    monkeypatch.setattr(durable, "write_json", full)
    assert worker.main([str(folder.path), "--models", str(tmp_path / "models")]) == worker.REFUSED
    assert folder.failure is not None
    assert folder.failure["code"] == "disk_full"
    assert list((tmp_path / "models").iterdir()) == []


def test_a_job_that_cannot_fit_is_refused_with_numbers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 << 20))
    with pytest.raises(RequestRefused, match=r"needs about 1\d MiB of disk, but 5 MiB are free") as raised:
        make_job(tmp_path, base)
    assert raised.value.code == "disk_full"
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_disk_that_has_filled_up_while_a_job_waited_is_noticed_at_its_start(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, base)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 << 20))
    with pytest.raises(TrainingFailed, match="5 MiB are free"):
        Finetune(folder, tmp_path / "models", check=lambda: None).run()


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_need_of_disk_is_said_first_and_holds(base: Path, tmp_path: Path, adapter: Any) -> None:
    most = 0

    def check() -> None:
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    folder = make_job(tmp_path, base, adapter=adapter)
    need = folder.job["disk_bytes"]
    assert f"needs at most {disk.mib(need)} of disk" in folder.events()[0]["message"]
    Finetune(folder, tmp_path / "models", check=check, checkpoint_every_s=0.0).run()
    weights = need - disk.SMALL_FILES
    assert weights / 4 < most < need, "neither made up nor too little"


def test_the_weights_of_an_adapter_are_counted_right(base: Path, tmp_path: Path) -> None:
    recipe = Recipe("lora", 1, 8, 1e-3, 0)
    trained = load_base(base, torch.device("cpu"), recipe).model
    config = json.loads((base / "config.json").read_text())
    assert disk.adapter_weights(config, 16) == sum(p.numel() for p in trained.parameters() if p.requires_grad)


def test_a_scale_that_has_nothing_left_ends_the_run(base: Path, tmp_path: Path) -> None:
    recipe = Recipe("full", 20, 12, 1e-3, 0, precision="float16", evaluations=1)
    loaded, report = load_base(base, torch.device("cpu"), recipe), Quiet()
    handle = next(iter(loaded.model.parameters())).register_hook(lambda grad: grad * float("inf"))
    encoded = encode([Example(row.prompt, row.completion) for row in make_rows()], loaded.tokenizer, 256)
    loop = Loop(
        loaded.model,
        recipe,
        Material(encoded, encoded[:8], encoded[:8], 128),
        Checkpoints(tmp_path),
        report,
        check=lambda: None,
        checkpoint_every_s=1000.0,
        computes="float16",
    )
    with pytest.raises(TrainingFailed, match="gradient is no longer a finite number"):
        loop.run()
    handle.remove()
    assert 20 < loop.step < 60
