"""`punchline train joke` on a small scale: reproducible from its seed, stoppable, and what it exports runs."""

import csv
import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bot.store.jokes import starter_texts
from model_service.engine.engine import Engine
from model_service.engine.loading import load
from model_service.training.dataset import Encoded
from model_service.training.joke_texts import Forms, TopicPicker, epoch_examples, shifted
from model_service.training.muon import orthogonalize
from model_service.training.pretrain_jokes import PretrainConfig, Pretraining
from tests.engine.test_engine import ask, greedy

SMALL = PretrainConfig(
    steps=6,
    vocab_size=600,
    n_embd=16,
    n_layer=1,
    n_head=2,
    n_positions=192,
    rows_per_batch=4,
    warmup_steps=2,
    num_samples=3,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter pack in the shape of the training data, one joke of it with a blocked word."""
    folder = tmp_path_factory.mktemp("data")
    texts = starter_texts()
    for name, rows in (("train", [*texts[:120], "A blockedword joke."]), ("dev", texts[120:140])):
        with gzip.open(folder / f"jokes_{name}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "source", "score", "text"])
            writer.writerows(["1", "test", "", text] for text in rows)
    (folder / "wordlists").mkdir()
    (folder / "wordlists/ldnoobw_en.txt").write_text("blockedword\n")
    return folder


def trained(data: Path, out: Path, config: PretrainConfig = SMALL) -> Pretraining:
    training = Pretraining(config, data, out, compile=False)
    training.run(save_every=2, eval_every=100)
    return training


def weights(training: Pretraining) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def test_a_seed_repeats_and_a_stopped_run_ends_like_one_that_was_not(data: Path, tmp_path: Path) -> None:
    whole = trained(data, tmp_path / "a")
    stopped = Pretraining(SMALL, data, tmp_path / "b", compile=False)
    original = stopped._train_step

    def step_or_die(batch: object) -> None:
        if stopped.step == 5:
            raise KeyboardInterrupt  # after the checkpoint of step 4
        original(batch)  # type: ignore[arg-type]

    stopped._train_step = step_or_die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run(save_every=2)
    assert torch.equal(weights(whole), weights(trained(data, tmp_path / "b")))
    other = trained(data, tmp_path / "c", PretrainConfig(**{**_fields(SMALL), "seed": 8}))
    assert not torch.equal(weights(whole), weights(other))


def _fields(config: PretrainConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__slots__}


async def test_what_it_exports_is_half_precision_has_a_card_and_runs(data: Path, tmp_path: Path) -> None:
    training = trained(data, tmp_path / "run")
    assert "A blockedword joke." not in training.train_texts
    figures = training.export(tmp_path / "model")
    assert {t.dtype for t in load_file(tmp_path / "model/model.safetensors").values()} == {torch.float16}
    assert (
        json.loads((tmp_path / "model/figures.json").read_text())["bits_per_character"] == figures["bits_per_character"]
    )
    card = (tmp_path / "model/README.md").read_text()
    assert f"{figures['bits_per_character']:.3f}" in card
    engine = load(str(tmp_path / "model"), "generate", model_id="small")
    assert isinstance(engine, Engine)
    assert (await ask(engine, "JOKE:", greedy(5))).finish_reason
    await engine.close()


def test_too_few_jokes_for_a_batch_is_an_error_not_an_endless_loop(data: Path, tmp_path: Path) -> None:
    config = PretrainConfig(**{**_fields(SMALL), "rows_per_batch": 4000})
    with pytest.raises(ValueError, match="do not fill one batch"):
        trained(data, tmp_path, config)


def test_examples_take_their_three_forms_and_topics_are_words_of_the_joke() -> None:
    texts = starter_texts() * 6
    examples = epoch_examples(texts, TopicPicker(texts), Forms(topic=0.4, bare=0.2), seed=1, epoch=0)
    topics = [e for e in examples if e.prompt.startswith("JOKE about ")]
    assert 0.1 < len(topics) / len(texts) < 0.45
    assert all(e.prompt.removeprefix("JOKE about ")[:-1] in e.completion.lower() for e in topics)
    assert 0.1 < sum(e.prompt == "" for e in examples) / len(texts) < 0.3
    assert [(e.prompt + e.completion).split(": ", 1)[-1] for e in examples if e.prompt == "JOKE:"]


def test_shifted_examples_reach_the_last_position_and_never_pass_it() -> None:
    encoded = [Encoded(list(range(random.Random(i).randint(1, 20))), 0) for i in range(3000)]
    moved = list(shifted(encoded, Forms(shift=0.5), 64, seed=1, epoch=0))
    ends = [e.offset + len(e.input_ids) for e in moved]
    assert max(ends) == 64
    assert 0.3 < sum(e.offset > 0 for e in moved) / 3000 < 0.6


def test_muons_update_is_nearly_orthogonal() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 24, 64, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5
    assert values.max() < 1.3
