"""What is loaded, what is refused, and the sentence that says why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2ForSequenceClassification

from model_service.engine.classifier import Classifier
from model_service.engine.engine import Engine
from model_service.engine.engine_config import Stage
from model_service.engine.forward import TorchForward
from model_service.engine.loading import load, weights_on
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.errors import RequestRefused
from model_service.models.loading import CheckpointError, open_checkpoint, read_checkpoint
from tests.engine.test_engine import ask
from tests.support.tiny_models import byte_tokenizer, save_tiny_classifier, save_tiny_generator, save_tiny_gptj


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_generator(tmp_path / "tiny")


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"activation_function": "mish"}, "activation_function 'mish'"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"n_head": 5}, "not a multiple"),
        ({"n_layer": 3}, r"lacks h\.2\."),
    ],
)
def test_a_config_that_does_not_run_is_refused_by_name(folder: Path, changes: dict[str, object], sentence: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(str(folder))


def test_pickled_weights_are_not_loaded_and_the_sentence_says_so(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError,
        match=r"pytorch_model\.bin, but only safetensors .*: punchline convert \S+ FOLDER",
    ):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("source", ["./nowhere", "nowhere", "/no/such/folder"])
def test_a_missing_folder_is_a_sentence(source: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        read_checkpoint(source)


def test_sharded_checkpoints_and_prefixed_names_load_alike(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert any(name.startswith("transformer.") for name in tensors)
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    (sharded / "model.safetensors").unlink()
    bare = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    names = sorted(bare)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in halves.items():
        save_file({k: bare[k] for k in keys}, sharded / file)
    index = {"weight_map": {k: file for file, keys in halves.items() for k in keys}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    first, second = (open_checkpoint(str(f)).tensors("float32") for f in (folder, sharded))
    assert {*first} == {*bare} == {*second}
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_gpt2s_older_tokenizer_files_are_read(folder: Path) -> None:
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer.json").unlink()
    assert open_checkpoint(str(folder)).tokenizer.encode("héy").ids == byte_tokenizer().encode("héy")


def test_number_formats_are_as_asked(folder: Path) -> None:
    half, whole = read_checkpoint(str(folder), weights="bfloat16"), read_checkpoint(str(folder), weights="float32")
    assert (half.model.dtype, whole.model.dtype) == (torch.bfloat16, torch.float32)
    assert half.model.size_bytes * 2 == whole.model.size_bytes
    with pytest.raises(CheckpointError, match="float8' is no number format; choose auto, float16"):
        read_checkpoint(str(folder), weights="float8")


def test_int8_on_a_gpu_is_refused_with_the_right_format(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="on a GPU choose float16"):
        read_checkpoint(str(folder), weights="int8", device="cuda:0")


async def test_probabilities_equal_transformers_whatever_else_is_in_the_list(tmp_path: Path) -> None:
    folder = save_tiny_classifier(tmp_path)
    classifier = load(str(folder), "classify", model_id="mood")
    assert isinstance(classifier, Classifier)
    texts = ["I love this", "no", "héllo 😀 " * 5]
    probs = await classifier.classify(texts)
    reference = GPT2ForSequenceClassification.from_pretrained(folder).eval()
    for text, row in zip(texts, probs, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([byte_tokenizer().encode(text)])).logits[0].softmax(-1)
        assert row == pytest.approx(expected.tolist(), abs=1e-4)
        assert (await classifier.classify([text]))[0] == row
    assert classifier.labels == ["negative", "neutral", "positive"]
    with pytest.raises(RequestRefused, match="Text 1 of the input is empty"):
        await classifier.classify(["a", ""])
    with pytest.raises(RequestRefused, match="200 tokens; this model reads at most 128"):
        await classifier.classify(["a" * 200])
    await classifier.close()


def test_a_language_model_is_no_classifier(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no score\.weight"):
        load(str(folder), "classify", model_id="x")


async def test_every_byte_of_a_text_survives_the_tokenizer(folder: Path) -> None:
    engine = load(str(folder), "generate", model_id="x")
    assert isinstance(engine, Engine)
    text = "a\tb\n😀é\u200b<|x|>"
    assert 256 not in engine.encode("typed <|endoftext|> by hand")
    assert "".join(engine.token_text(t) for t in engine.encode("abc")) == "abc"
    assert engine.tokenizer.decode(engine.encode(text)) == text
    await engine.close()


async def test_a_model_in_stages_answers_as_a_whole_one_and_says_what_is_where(tmp_path: Path) -> None:
    folder = save_tiny_gptj(tmp_path, n_layer=3)
    said: list[tuple[int, int]] = []

    def made(**how: Any) -> Engine:
        engine = load(str(folder), "generate", model_id="x", weights="float32", **how)
        assert isinstance(engine, Engine)
        return engine

    def progress(done_bytes: int, total_bytes: int) -> None:
        said.append((done_bytes, total_bytes))

    stages = (Stage("cpu:0", range(0, 1)), Stage("cpu:1", range(1, 3)))
    whole, split = made(), made(stages=stages, progress=progress)
    params = SamplingParams(max_tokens=20, temperature=0)
    assert (await ask(split, "Once", params)).text == (await ask(whole, "Once", params)).text
    assert whole.device_map == (("layers 0-2", "cpu"),)
    assert split.device_map == (("layers 0-0", "cpu:0"), ("layers 1-2", "cpu:1"))
    assert split.size_bytes == whole.size_bytes
    assert said == sorted(said)
    assert said[-1] == (split.size_bytes, split.size_bytes)
    await whole.close()
    await split.close()


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([("cpu", 0, 1)], "layers 0-0 on cpu: these are not the model's layers 0-1, in order, each once"),
        ([("cpu:0", 1, 2), ("cpu:1", 0, 1)], "layers 1-1 on cpu:0, layers 0-0 on cpu:1: these are not"),
        ([("cpu:0", 0, 2), ("cpu:1", 1, 2)], "these are not"),
        ([("cpu:0", 0, 0), ("cpu:1", 0, 2)], "these are not"),
        ([("gpu1", 0, 2)], "'gpu1' is no device; devices are cuda:0, cuda:1, … and cpu"),
        ([("mps", 0, 2)], "Nothing runs on 'mps' here"),
        ([("cuda:77", 0, 2)], "There is no cuda:77 here: torch sees"),
    ],
)
def test_stages_that_cannot_be_are_refused(folder: Path, stages: list[tuple[str, int, int]], sentence: str) -> None:
    placed = tuple(Stage(device, range(start, stop)) for device, start, stop in stages)
    with pytest.raises(CheckpointError, match=sentence):
        load(str(folder), "generate", model_id="x", stages=placed)


def test_what_the_last_stage_lacks_is_said_before_the_first_is_read(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.ln_2.bias"]
    save_file(tensors, folder / "model.safetensors")
    said: list[int] = []
    stages = (Stage("cpu:0", range(0, 1)), Stage("cpu:1", range(1, 2)))
    with pytest.raises(CheckpointError, match=r"lacks h\.1\.ln_2\.bias"):
        load(
            str(folder), "generate", model_id="x", weights="float32", stages=stages, progress=lambda *_: said.append(1)
        )
    assert said == []


def test_a_classifier_in_stages_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="classifies, which runs on one device"):
        load(str(folder), "classify", model_id="x", stages=(Stage("cpu:0", range(1)), Stage("cpu:1", range(1, 2))))


def test_beside_a_gpu_in_fp16_a_stage_on_the_cpu_is_in_bf16() -> None:
    split = (Stage("cuda:0", range(0, 5)), Stage("cpu", range(5, 6)))
    assert [weights_on(stage, "float16", split) for stage in split] == ["float16", "bfloat16"]
    assert [weights_on(stage, "float32", split) for stage in split] == ["float32", "float32"]
    alone = (Stage("cpu", range(6)),)
    assert weights_on(alone[0], "float16", alone) == "float16"


@torch.inference_mode()
def test_a_part_takes_what_a_part_in_another_format_hands_on(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    first, last = (
        TorchForward(opened.read(weights, layers=layers), 1)
        for weights, layers in (("float16", range(1)), ("bfloat16", range(1, 2)))
    )
    sequence = Sequence(0, [1, 2, 3], SamplingParams(), seed=0)
    sequence.slot = 0
    chunks = [Chunk(sequence, 0, 3)]
    logits = last.logits(last.hidden(chunks, first.hidden(chunks)))
    exact = TorchForward(opened.read(), 1)
    expected = exact.logits(exact.hidden(chunks))
    assert (logits - expected).norm() < 0.05 * expected.norm()


def test_a_device_without_room_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("model_service.models.stored.room", full)
    with pytest.raises(CheckpointError, match=r"cpu has no memory left for layers 0-1 of .*tiny in float32"):
        open_checkpoint(str(folder)).read()


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_broken_tokenizer_is_a_sentence(folder: Path, name: str) -> None:
    for file in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"has neither tokenizer\.json nor vocab\.json with merges\.txt"):
        open_checkpoint(str(folder))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / name).write_text('{"half": ')
    with pytest.raises(CheckpointError, match=r"The tokenizer in .*tiny could not be read: "):
        open_checkpoint(str(folder))
