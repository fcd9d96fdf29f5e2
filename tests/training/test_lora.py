"""`lora` publishes an adapter that is not merged: what is measured is its file, and the engine answers from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model_service.config import ModelSettings, ServiceSettings
from model_service.engine.engine import Engine
from model_service.engine.sequence import SamplingParams
from model_service.held_models import tuned_models
from model_service.placement.load import loader
from model_service.placement.pool import Pool
from model_service.training import precision, registry
from model_service.training.base_model import load_base
from model_service.training.dataset import Example, encode
from model_service.training.evaluate import losses
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.loop import Interrupted, TrainingFailed
from model_service.training.orders import Start
from model_service.training.recipe import Recipe
from tests.support.adapters import merged_model
from tests.support.tiny_models import save_tiny_generator, save_tiny_gptj
from tests.support.training_jobs import make_job, make_rows

pytestmark = pytest.mark.usefixtures("one_thread")
LORA: dict[str, Any] = {"adapter": "lora", "learning_rate_multiplier": 20.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"), resid_pdrop=0.1, embd_pdrop=0.1)


def finetune(home: Path, folder: JobFolder) -> dict[str, Any]:
    Finetune(folder, home / "models", check=lambda: None, checkpoint_every_s=0.0).run()
    assert folder.result is not None
    return folder.result


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobFolder, registry.TunedModel]:
    home = tmp_path_factory.mktemp("done")
    folder = make_job(home, base, suffix="guild-1", **LORA)
    finetune(home, folder)
    (tuned,) = registry.finished(home / "models")
    return folder, tuned


def held_out_losses(model: Any, folder: JobFolder, base: Path) -> Any:
    rows = [json.loads(line) for line in (folder.path / "held_out.jsonl").read_text().splitlines()]
    tokenizer = load_base(base, torch.device("cpu")).tokenizer
    encoded = encode([Example(r["prompt"], r["completion"]) for r in rows], tokenizer, 256)
    return losses(model.eval(), encoded, 128)


def test_what_is_published_is_a_float32_adapter_beside_an_untouched_base(
    done: tuple[JobFolder, registry.TunedModel], base: Path
) -> None:
    folder, tuned = done
    names = {path.name for path in tuned.folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    tensors = load_file(tuned.folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    size = sum(tensor.numel() for tensor in tensors.values())
    assert size < registry.num_parameters(base)
    assert tuned.manifest["runs_on"] == tuned.manifest["base"] == "tiny"
    result = folder.result
    assert result is not None
    assert result["gate"]["passed"], result["gate"]["reasons"]
    assert result["metrics"]["val_loss_after"] < 0.8 * result["metrics"]["val_loss_before"]


def test_the_loss_that_is_judged_is_that_of_the_published_file(
    done: tuple[JobFolder, registry.TunedModel], base: Path
) -> None:
    folder, tuned = done
    found = held_out_losses(merged_model(base, tuned.folder), folder, base)
    assert found.per_token == pytest.approx((folder.result or {})["metrics"]["val_loss_after"], abs=1e-4)


async def test_the_pool_runs_it_on_its_bases_engine_as_what_was_measured(
    done: tuple[JobFolder, registry.TunedModel], base: Path
) -> None:
    tuned = done[1]
    pool = Pool(loader(ServiceSettings()))
    specs = tuned_models(tuned.folder.parent)
    pool.expect([ModelSettings(name="tiny", source=str(base), weights="float32")], specs)
    with pool.generating(tuned.id) as visit:
        model = await visit.model()
        params = SamplingParams(max_tokens=12, temperature=0)
        async with model.submit(model.encode("JOKE:"), params) as stream:
            said = "".join([piece.text async for piece in stream])
    (name, engine), *others = pool.generators()
    assert (name, others) == ("tiny", [])
    assert isinstance(engine, Engine)
    await pool.close()
    tokens = model.encode("JOKE:")
    made = merged_model(base, tuned.folder).generate(
        torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), max_new_tokens=12, do_sample=False
    )
    assert said == model.tokenizer.decode(made[0, len(tokens) :].tolist())
    assert said.startswith(" A")


def test_a_tuned_adapter_is_gone_on_from(
    done: tuple[JobFolder, registry.TunedModel], base: Path, tmp_path: Path
) -> None:
    tuned = done[1]
    rows = [row.__class__(row.prompt, row.completion + " Ha!", f"more-{i}") for i, row in enumerate(make_rows())]
    again = make_job(tmp_path, Start(base, "tiny", tuned.folder), rows=rows, model=tuned.id, **LORA)
    assert again.job["fine_tuned_model"] == f"ft:tiny::{again.id}"
    result = finetune(tmp_path, again)
    (child,) = registry.finished(tmp_path / "models")
    before = held_out_losses(merged_model(base, tuned.folder), again, base).per_token
    assert result["metrics"]["val_loss_before"] == pytest.approx(before, abs=1e-4)
    assert result["metrics"]["val_loss_after"] < before
    assert (child.manifest["runs_on"], child.manifest["started_from"]) == ("tiny", tuned.id)
    sides = {row["id"]: row["side"] for row in child.manifest["examples"]}
    learned = {row["id"] for row in tuned.manifest["examples"] if row["side"] == "train"}
    assert {row for row, side in sides.items() if side == "inherited"} == learned
    assert {row for row in sides if row.startswith("more-")} == {row.id for row in rows}


def test_full_training_may_go_on_from_an_adapter_and_gives_a_whole_model(
    done: tuple[JobFolder, registry.TunedModel], base: Path, tmp_path: Path
) -> None:
    folder, tuned = done
    again = make_job(tmp_path, Start(base, "tiny", tuned.folder), model=tuned.id, adapter="full", n_epochs=1)
    result = finetune(tmp_path, again)
    assert result["metrics"]["val_loss_before"] == pytest.approx(
        (folder.result or {})["metrics"]["val_loss_after"], abs=1e-4
    )
    (child,) = registry.finished(tmp_path / "models")
    assert (child.folder / "model.safetensors").exists()


def test_an_adapter_on_a_tuned_model_runs_on_that_one_and_is_named_after_the_first_base(
    base: Path, tmp_path: Path
) -> None:
    first = make_job(tmp_path, base, n_epochs=1)
    finetune(tmp_path, first)
    (whole,) = registry.finished(tmp_path / "models")
    second = make_job(tmp_path, whole.folder, model=whole.id, n_epochs=1, adapter="lora")
    finetune(tmp_path, second)
    tuned = registry.finished(tmp_path / "models")[-1]
    assert tuned.id == f"ft:tiny::{second.id}"
    assert registry.runs_on(tuned.folder) == whole.id


def test_an_interrupted_adapter_ends_like_one_that_was_not(
    done: tuple[JobFolder, registry.TunedModel], base: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, base, **LORA)
    for calls in (2, 9, 6):
        left = iter(range(calls))

        def check(left: Any = left) -> None:
            if next(left, None) is None:
                raise Interrupted

        with pytest.raises(Interrupted):
            Finetune(folder, tmp_path / "models", check=check, checkpoint_every_s=0.0).run()
    metrics = (done[0].result or {})["metrics"]
    assert finetune(tmp_path, folder)["metrics"] == pytest.approx(metrics, abs=1e-5)


@pytest.mark.parametrize("computes", ["bfloat16", "float16"])
def test_the_base_may_be_held_in_16_bits_while_the_adapter_stays_in_32(
    base: Path, tmp_path: Path, computes: str
) -> None:
    folder = make_job(tmp_path, base, recipe={"precision": computes}, **LORA)
    result = finetune(tmp_path, folder)
    (tuned,) = registry.finished(tmp_path / "models")
    assert tuned.manifest["precision"] == computes
    assert {t.dtype for t in load_file(tuned.folder / "adapter_model.safetensors").values()} == {torch.float32}
    assert result["gate"]["passed"], result["gate"]["reasons"]
    in_32_bits = held_out_losses(merged_model(base, tuned.folder), folder, base).per_token
    assert result["metrics"]["val_loss_after"] == pytest.approx(in_32_bits, rel=0.02)


def test_gptj_gets_an_adapter_too(tmp_path: Path) -> None:
    folder = make_job(tmp_path, save_tiny_gptj(tmp_path / "base"), n_epochs=1, **LORA)
    finetune(tmp_path, folder)
    (tuned,) = registry.finished(tmp_path / "models")
    assert any("q_proj" in name for name in load_file(tuned.folder / "adapter_model.safetensors"))


def test_a_deleted_adapter_that_it_should_go_on_from_is_named(base: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path, Start(base, "tiny", tmp_path / "gone"), model="ft:tiny::gone", **LORA)
    with pytest.raises(TrainingFailed, match="ft:tiny::gone, is no longer there"):
        finetune(tmp_path, folder)


def test_the_format_that_was_chosen_is_kept_by_a_restart(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, base, n_epochs=1, **LORA)
    folder.write_choices({"precision": "bfloat16"})
    monkeypatch.setattr(precision, "choose", lambda *_: pytest.fail("measured again"))
    finetune(tmp_path, folder)
    assert registry.finished(tmp_path / "models")[0].manifest["precision"] == "bfloat16"


def test_on_a_cpu_the_faster_format_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken_s = {"float32": 1.0, "bfloat16": 0.5}
    monkeypatch.setattr(precision, "_step_s", lambda name, *_: taken_s[name])
    cpu, recipe = torch.device("cpu"), Recipe("lora", 1, 8, 1e-3, 0)
    assert precision.choose(recipe, cpu, 768) == "bfloat16"
    taken_s["bfloat16"] = 0.95
    assert precision.choose(recipe, cpu, 768) == "float32"
    assert precision.choose(recipe, cpu, 64) == "float32"


def test_both_formats_can_be_measured() -> None:
    assert all(
        precision._step_s(name, adapter, 64) > 0 for name in ("float32", "bfloat16") for adapter in ("lora", "full")
    )  # type: ignore[arg-type]
