"""`method.type: classify`: labels are checked, learned, judged, and the model answers under `/v1/classify`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from model_service.config import ModelSettings, ServiceSettings
from model_service.errors import RequestRefused
from model_service.held_models import tuned_models
from model_service.placement.load import loader
from model_service.placement.pool import Pool
from model_service.training import label_gate, registry, worker
from model_service.training.classify import ClassifierTraining
from model_service.training.dataset import Encoded
from model_service.training.finetune import Finetune
from model_service.training.folder import JobFolder
from model_service.training.label_gate import Answers, LabelEvidence
from model_service.training.label_objective import LabelledText, LabelMaterial
from model_service.training.labelled import Labelled, split_labelled
from model_service.training.loop import Interrupted
from model_service.training.orders import Start
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator
from tests.support.training_jobs import make_job

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = {"good": ["fun", "warm", "great", "bright"], "bad": ["dull", "cold", "awful", "grey"]}
THINGS = [
    "film",
    "play",
    "song",
    "book",
    "joke",
    "dish",
    "game",
    "walk",
    "talk",
    "trip",
    "city",
    "tune",
    "line",
    "poem",
]
CLASSIFY: dict[str, Any] = {"method": "classify", "learning_rate_multiplier": 10.0, "n_epochs": 4}


def reviews(labels: tuple[str, str] = ("good", "bad")) -> list[Labelled]:
    """112 short reviews; a word in each decides its label."""
    of = dict(zip(("good", "bad"), labels, strict=True))
    made = [(f"A {word} {thing}", of[kind]) for kind, words in WORDS.items() for word in words for thing in THINGS]
    return [Labelled(text, label, f"review-{i}") for i, (text, label) in enumerate(made)]


def train(home: Path, folder: JobFolder, **options: Any) -> dict[str, Any]:
    ClassifierTraining(folder, home / "models", **{"check": lambda: None, "checkpoint_every_s": 0.0, **options}).run()
    assert folder.result is not None
    return folder.result


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=["lora", "full"])
def done(
    base: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[JobFolder, registry.TunedModel]:
    """A joke model became one that classifies."""
    home = tmp_path_factory.mktemp("done")
    folder = make_job(home, base, rows=reviews(), adapter=request.param, **CLASSIFY)
    train(home, folder)
    (tuned,) = registry.finished(home / "models")
    return folder, tuned


def test_a_new_head_beats_always_saying_the_same(done: tuple[JobFolder, registry.TunedModel]) -> None:
    folder, tuned = done
    result = folder.result
    assert result is not None
    metrics, confusion = result["metrics"], result["confusion"]
    assert result["gate"]["passed"], result["gate"]["reasons"]
    assert metrics["accuracy_after"] > 0.8 > 0.7 > metrics["accuracy_before"]
    assert confusion["labels"] == ["bad", "good"]
    matrix = np.array(confusion["matrix"])
    assert matrix.sum() == folder.job["counts"]["held_out"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(metrics["accuracy_after"])
    assert "always answering 'bad'" in result["gate"]["reasons"][0] or "'good'" in result["gate"]["reasons"][0]
    messages = [event["message"] for event in folder.events()]
    assert any(words.startswith("Confusion on the held-out texts") for words in messages)
    assert any("accuracy=" in words for words in messages)
    assert tuned.manifest["task"] == "classify"
    assert {row["id"] for row in tuned.manifest["examples"]} == {row.id for row in reviews()}


async def test_the_pool_loads_it_as_a_classifier_that_answers_as_measured(
    done: tuple[JobFolder, registry.TunedModel],
) -> None:
    folder, tuned = done
    (spec,) = tuned_models(tuned.folder.parent)
    assert spec.task == "classify"
    pool = Pool(loader(ServiceSettings()))
    pool.expect([ModelSettings(name=spec.name, source=spec.source, task="classify", weights="float32")])
    rows = [json.loads(line) for line in (folder.path / "held_out.jsonl").read_text().splitlines()]
    with pool.classifying(tuned.id) as visit:
        model = await visit.model()
        found = await model.classify([row["text"] for row in rows])
        right = [model.labels[int(np.argmax(probs))] == row["label"] for probs, row in zip(found, rows, strict=True)]
    await pool.close()
    assert np.mean(right) == pytest.approx((folder.result or {})["metrics"]["accuracy_after"])


def test_a_model_that_knows_the_labels_keeps_its_head_and_must_beat_itself(tmp_path: Path) -> None:
    base = save_tiny_classifier(tmp_path / "base", ("bad", "good"))
    folder = make_job(tmp_path, base, rows=reviews(), **CLASSIFY)
    assert folder.job["keeps_head"]
    result = train(tmp_path, folder)
    assert result["gate"]["passed"], result["gate"]["reasons"]
    assert "tiny before: " in result["gate"]["reasons"][0]
    assert result["metrics"]["val_loss_before"] == pytest.approx(folder.progress["val_loss_before"], abs=1e-4)


def test_other_labels_give_a_new_head_even_if_they_are_as_many(tmp_path: Path) -> None:
    base = save_tiny_classifier(tmp_path / "base", ("negative", "positive"))
    folder = make_job(tmp_path, base, rows=reviews(), **{**CLASSIFY, "n_epochs": 1})
    assert not folder.job["keeps_head"]
    result = train(tmp_path, folder)
    config = json.loads((tmp_path / "models" / result["fine_tuned_model"] / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}


def test_a_classifier_that_is_interrupted_ends_like_one_that_is_not(
    done: tuple[JobFolder, registry.TunedModel], base: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, base, rows=reviews(), adapter=done[0].job["recipe"]["adapter"], **CLASSIFY)
    left = iter(range(30))

    def check() -> None:
        if next(left, None) is None:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path, folder, check=check)
    result = train(tmp_path, folder)
    assert result["metrics"] == pytest.approx((done[0].result or {})["metrics"], abs=1e-4)


def test_the_worker_runs_the_method_of_the_job(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path, base, rows=reviews(), **{**CLASSIFY, "n_epochs": 1})
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process keeps its own
    assert worker.main([str(folder.path), "--models", str(tmp_path / "models")]) == worker.DONE
    assert (folder.result or {})["task"] == "classify"


def test_texts_that_do_not_fit_the_context_are_counted_and_never_cut(base: Path, tmp_path: Path) -> None:
    long = [Labelled(f"{'very ' * 40}long {i}", ("bad", "good")[i % 2], f"long-{i}") for i in range(8)]
    folder = make_job(tmp_path, base, rows=[*reviews(), *long], **{**CLASSIFY, "n_epochs": 1})
    train(tmp_path, folder)
    assert folder.progress["counts"]["too_long"] == 8
    assert any("8 too long left out" in event["message"].replace("\n", " ") for event in folder.events())
    (tuned,) = registry.finished(tmp_path / "models")
    assert not any(row["id"].startswith("long-") for row in tuned.manifest["examples"])


def test_packed_texts_are_read_as_they_are_alone(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(save_tiny_classifier(tmp_path)).eval()
    texts = [LabelledText(Encoded(list(text.encode()), 0), i % 3) for i, text in enumerate(("One", "Two ducks", "Six"))]
    material = LabelMaterial(texts, texts, 64)
    found = material.logits(model, max_rows=4, between=lambda: None)
    with torch.no_grad():
        for text, logits in zip(texts, found, strict=True):
            alone = model(input_ids=torch.tensor([text.encoded.input_ids])).logits[0]
            assert torch.allclose(alone, logits, atol=1e-5)


def labelled(*labels: str, n: int = 60) -> list[Labelled]:
    return [Labelled(f"text {label} {i}", label) for label in labels for i in range(n)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (labelled("good", n=200), "Every text has the label 'good'; at least two"),
        (labelled(*(f"label {i}" for i in range(101)), n=3), "101 different labels, at most 100"),
        (labelled("good", "Good "), r"'Good ' and 'good' differ in spelling only"),
        (labelled("good", "x" * 65), "has 65 characters"),
        ([*labelled("good", n=200), *labelled("bad", n=3)], r"have the label 'bad' \(\d\); at least 5 of each"),
        (labelled("good", "bad", n=10), "at least 50 and 20 are needed"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_with_why(rows: Sequence[Labelled], words: str) -> None:
    with pytest.raises(RequestRefused, match=words):
        split_labelled(rows)


def test_a_validation_file_may_not_bring_new_labels() -> None:
    with pytest.raises(RequestRefused, match=r"training file lacks: 'soso'") as raised:
        split_labelled(labelled("good", "bad"), labelled("soso"))
    assert raised.value.param == "validation_file"


def test_texts_with_two_labels_and_twins_are_left_out_and_counted() -> None:
    rows = reviews()
    twin, other = Labelled("a FUN film!", "good"), Labelled("A cold song", "good")
    parts = split_labelled([*rows, twin, other])
    assert (parts.num_duplicates, parts.num_contradictions) == (1, 2)
    assert len(parts.train) + len(parts.held_out) == len(rows) - 1
    again = split_labelled([*reversed(rows), twin])
    assert {row.text for row in parts.held_out} <= {row.text for row in again.held_out}


def test_the_gate_refuses_what_is_not_better() -> None:
    labels = [0, 1] * 20
    sure, unsure = np.full(40, 0.2), np.full(40, 0.9)
    good = Answers("before", unsure, [0, 1] * 20)
    same = Answers("after", sure, [0, 1] * 20)
    verdict = label_gate.decide(LabelEvidence(labels, good, same, sure))
    assert not verdict.passed
    assert "That is not better" in verdict.reasons[0]
    worse = Answers("before", unsure, [0, 0] * 20)
    assert label_gate.decide(LabelEvidence(labels, worse, same, sure)).passed
    assert not label_gate.decide(LabelEvidence(labels, worse, Answers("after", unsure + 1, [0, 1] * 20), sure)).passed
    assert LabelEvidence(labels, worse, Answers("after", sure, [0, 0] * 20), sure).confusion(2) == [[20, 0], [20, 0]]


def test_a_joke_adapter_is_merged_before_it_learns_labels(base: Path, tmp_path: Path) -> None:
    joker = make_job(tmp_path, base, adapter="lora", n_epochs=1)
    Finetune(joker, tmp_path / "models", check=lambda: None).run()
    (tuned,) = registry.finished(tmp_path / "models")
    folder = make_job(
        tmp_path, Start(base, "tiny", tuned.folder), rows=reviews(), model=tuned.id, **{**CLASSIFY, "n_epochs": 1}
    )
    result = train(tmp_path, folder)
    assert (tmp_path / "models" / result["fine_tuned_model"] / "model.safetensors").exists()
