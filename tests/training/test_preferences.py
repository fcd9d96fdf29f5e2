"""`method.type: dpo`: pairs are divided without leaks, and a tiny model learns to prefer what people liked."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from model_service.errors import RequestRefused
from model_service.training import registry
from model_service.training.dataset import Encoded
from model_service.training.evaluate import losses
from model_service.training.examples import normalise
from model_service.training.folder import JobFolder
from model_service.training.loop import Interrupted
from model_service.training.preference_objective import PreferenceMaterial, margins, refer, without_dropout
from model_service.training.preference_training import PreferenceTraining
from model_service.training.preferences import Preferred, read_preferred, split_preferred
from tests.support.tiny_models import save_tiny_generator
from tests.support.training_jobs import make_job, make_rows

pytestmark = pytest.mark.usefixtures("one_thread")
DPO: dict[str, Any] = {"method": "dpo", "adapter": "lora", "n_epochs": 4, "learning_rate_multiplier": 20.0}


def make_pairs(n: int = 100) -> list[Preferred]:
    """Pairs of one shape: people like the jokes and not the advertisements."""
    jokes = [row.completion for row in make_rows(n)]
    return [
        Preferred("JOKE:", joke, " Buy a" + joke.split(" A", 1)[1].split(" walks")[0] + f" for {i} dollars!", f"{i}")
        for i, joke in enumerate(jokes)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"), resid_pdrop=0.1, embd_pdrop=0.1)


def train(home: Path, folder: JobFolder, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run a job to its end; returns result.json."""
    PreferenceTraining(folder, home / "models", check=check, checkpoint_every_s=0.0).run()
    assert folder.result is not None
    return folder.result


def looks(folder: JobFolder) -> list[dict[str, Any]]:
    return [e["data"] for e in folder.events() if "accuracy" in (e["data"] or {})]


def encoded(seed: int, size: int) -> Encoded:
    luck = torch.Generator().manual_seed(seed)
    return Encoded(torch.randint(1, 60, (size,), generator=luck).tolist(), 2)


# dividing


def test_sides_never_share_a_text_and_never_move() -> None:
    pairs = [Preferred("", f" Good {i}", f" Bad {i if i > 80 else i % 30}", str(i)) for i in range(400)]
    parts = split_preferred(pairs)
    held = {normalise(text) for row in parts.held_out for text in (row.chosen, row.rejected)}
    assert held.isdisjoint({normalise(text) for row in parts.train for text in (row.chosen, row.rejected)})
    assert len(parts.train) + len(parts.held_out) + parts.num_left_out == 400


def test_twins_and_contradictions_are_left_out_and_counted() -> None:
    pairs = make_pairs()
    twin = Preferred("JOKE:", pairs[0].chosen.upper(), pairs[0].rejected)
    contrary = Preferred("JOKE:", pairs[1].rejected, pairs[1].chosen)
    itself = Preferred("JOKE:", "Same.", "same")
    parts = split_preferred([*pairs, twin, contrary, itself])
    assert parts.num_left_out == 4
    assert pairs[1] not in [*parts.train, *parts.held_out]


def test_too_few_pairs_are_refused_with_the_numbers() -> None:
    with pytest.raises(
        RequestRefused, match=r"There are \d+ pairs .* and \d+ held out .* at least 50 and 20 are needed"
    ):
        split_preferred(make_pairs(30))


def test_a_file_keeps_its_ids() -> None:
    lines = [
        {"id": 7, "prompt": "JOKE:", "chosen": "a", "rejected": "b"},
        {"prompt": "", "chosen": "c", "rejected": "d"},
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    assert read_preferred(content) == [Preferred("JOKE:", "a", "b", "7"), Preferred("", "c", "d")]


# the loss


def test_the_loss_is_that_of_the_paper_and_packing_does_not_change_it(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    other = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    for each in (model, other):
        without_dropout(each)
    texts = [(encoded(2 * i, 6 + i), encoded(2 * i + 1, 9 - i)) for i in range(5)]
    pairs = refer(model, texts, 64, between=lambda: None)
    material = PreferenceMaterial(pairs, pairs, [encoded(99, 20)], 64, beta=0.3)
    batch = material.batch(range(5))
    assert batch.num_rows < 5, "several pairs share a row"
    part = batch.part(0, batch.num_rows, torch.device("cpu"))
    assert material.loss(model, part).item() == pytest.approx(5 * math.log(2), abs=1e-4), "its own reference"

    def alone(of: Any, text: Encoded) -> float:
        return -float(losses(of, [text], 64).nats[0])

    wanted = [(alone(other, c) - alone(model, c)) - (alone(other, r) - alone(model, r)) for c, r in texts]
    other.train()
    assert sorted(margins(other, part).tolist()) == pytest.approx(sorted(wanted), abs=2e-4)
    by_hand = sum(math.log(1 + math.exp(-0.3 * margin)) for margin in wanted)
    assert material.loss(other, part).item() == pytest.approx(by_hand, abs=1e-3)
    look = material.look(other, 3, max_rows=2, between=lambda: None)
    assert look.nats == pytest.approx([math.log(1 + math.exp(-0.3 * margin)) for margin in wanted], abs=1e-4)
    assert look.figures["accuracy"] == np.mean(np.asarray(wanted) > 0), "no margin is near 0 here"


# whole jobs


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_margin_grows_and_held_out_pairs_are_preferred_as_people_do(
    base: Path, tmp_path: Path, adapter: str
) -> None:
    folder = make_job(tmp_path, base, rows=make_pairs(), **{**DPO, "adapter": adapter})
    result = train(tmp_path, folder)
    first, *later = looks(folder)
    assert (first["accuracy"], first["margin"]) == pytest.approx((0.5, 0.0), abs=1e-3)
    assert later[-1]["margin"] > 1
    metrics = result["metrics"]
    assert metrics["accuracy_after"] > 0.9
    assert metrics["val_loss_after"] < metrics["val_loss_before"] == pytest.approx(math.log(2), abs=1e-4)
    assert "held-out pairs are preferred as people do" in result["gate"]["reasons"][0]
    evaluation = result["evaluation"]
    assert len(evaluation["samples"]) == 8
    assert evaluation["before"]["loss"] > 0
    [tuned] = registry.finished(tmp_path / "models")
    assert {row["id"] for row in tuned.manifest["examples"]} == {row.id for row in make_pairs()}
    assert tuned.manifest["hyperparameters"]["beta"] == 0.1
    assert registry.task_of(tuned.manifest) == "generate"


def test_a_job_that_was_stopped_ends_like_one_that_was_not(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", []), ("stopped", [20])):
        folder = make_job(tmp_path / name, base, rows=make_pairs(), **{**DPO, "n_epochs": 1})
        for calls in stops:
            left = iter(range(calls))

            def check(left: Any = left) -> None:
                if next(left, None) is None:
                    raise Interrupted

            with pytest.raises(Interrupted):
                train(tmp_path / name, folder, check)
        ends.append(train(tmp_path / name, folder)["metrics"])
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)


def test_pairs_that_do_not_fit_the_context_are_counted_and_never_cut(base: Path, tmp_path: Path) -> None:
    long = [Preferred("JOKE:", f" Long {i} " + "x" * 200, f" Short {i}", f"long-{i}") for i in range(8)]
    folder = make_job(tmp_path, base, rows=[*make_pairs(), *long], **{**DPO, "n_epochs": 1})
    train(tmp_path, folder)
    assert folder.progress["counts"]["too_long"] == 8
    [tuned] = registry.finished(tmp_path / "models")
    assert not [row for row in tuned.manifest["examples"] if row["id"].startswith("long")]
