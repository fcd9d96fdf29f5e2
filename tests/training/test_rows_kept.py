"""What a job has of people's texts, and has learned from them, goes when it ends without a model. No torch."""

from pathlib import Path

import pytest

from model_service.config import ModelSettings
from model_service.errors import ModelFailed
from model_service.training import durable, registry, said
from tests.support.training_jobs import FakePool, make_rows
from tests.training.test_jobs import FOREVER, ORDER, REFUSE, SUCCEED, running, status, until

# what the child has by the time it judges its model: checkpoints, samples, the weights aside and, published, whole
JUDGING = """
mkdir -p checkpoints/step-000007 && touch checkpoints/step-000007/weights.safetensors
echo '{"texts": ["What the old model says."]}' > before.json
model=$(sed -n 's/.*"fine_tuned_model": "\\(.*\\)".*/\\1/p' job.json)
for made in ".aside-$model" "$model"; do
    mkdir -p "../../models/$made" && echo '{}' > "../../models/$made/manifest.json"
done
touch judged
"""


@pytest.mark.parametrize(("script", "ends"), [(SUCCEED, "succeeded"), (REFUSE, "failed"), (FOREVER, "cancelled")])
async def test_an_ended_job_keeps_no_texts(tmp_path: Path, script: str, ends: str) -> None:
    async with running(tmp_path, JUDGING + script) as (jobs, _, _spawn):
        folder = await jobs.create(ORDER, make_rows())
        assert (folder.path / "train.jsonl").exists()
        await until((folder.path / "judged").exists)
        if ends == "cancelled":
            await jobs.cancel(folder.id)
        await until(lambda: status(folder) == ends)
        assert list(folder.path.glob("*.jsonl")) == [folder.path / "events.jsonl"]
        assert not folder.checkpoints.exists()
        assert not (folder.path / "before.json").exists()
        left = [path.name for path in (tmp_path / "models").iterdir() if not path.name.startswith(".aside")]
        assert left == [folder.job["fine_tuned_model"]] * (ends == "succeeded"), "no weights without a job that says so"
        if ends != "succeeded":
            assert list((tmp_path / "models").iterdir()) == []


async def test_a_paused_job_keeps_what_it_needs_to_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, JUDGING + FOREVER) as (jobs, _, _spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until((folder.path / "judged").exists)
        await jobs.pause(folder.id)
        kept = ("train.jsonl", "held_out.jsonl", "before.json", "checkpoints/step-000007/weights.safetensors")
        assert all((folder.path / name).exists() for name in kept)


async def test_a_model_that_could_not_be_loaded_is_named_so_that_it_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: FakePool, spec: ModelSettings, /) -> None:
        raise ModelFailed(spec.name, "its file is torn.")

    monkeypatch.setattr(FakePool, "load", refuse)
    async with running(tmp_path, SUCCEED) as (jobs, _, _spawn):
        folder = await jobs.create(ORDER, make_rows())
        await until(lambda: status(folder) == "failed")
        assert folder.status["fine_tuned_model"] == folder.job["fine_tuned_model"]
        assert [path.name for path in (tmp_path / "models").iterdir()] == [folder.job["fine_tuned_model"]]


async def test_removals_that_a_power_cut_left_half_done_are_ended_at_the_next_start(tmp_path: Path) -> None:
    half = tmp_path / "models" / f"{registry.GONE}ft:tiny::ftjob-0123456789abcdef"
    half.mkdir(parents=True)
    (half / "model.safetensors").touch()
    async with running(tmp_path, SUCCEED):
        assert list((tmp_path / "models").iterdir()) == []


def test_what_was_heard_of_a_model_goes_and_its_figures_stay(tmp_path: Path) -> None:
    folder = tmp_path / "ftjob-0123456789abcdef"
    folder.mkdir()
    told = {"after": {"loss": 3.1}, "samples": [{"seed": 1, "before": "Old.", "after": "Somebody's own joke."}]}
    durable.write_json(folder / "result.json", {"metrics": {"sureness": 1.0}, "evaluation": told})
    durable.write_json(folder / "before.json", {"texts": ["Old."]})
    for model in ("ft:tiny:a:ftjob-0123456789abcdef", "ft:tiny:a:ftjob-0123456789abcdef", "tiny", "ft:x:../../etc"):
        said.forget(tmp_path, model)  # twice, and of what no job has made, is harmless
    expected = {"metrics": {"sureness": 1.0}, "evaluation": {"after": {"loss": 3.1}}}
    assert durable.read_json(folder / "result.json") == expected
    assert [path.name for path in folder.iterdir()] == ["result.json"]
