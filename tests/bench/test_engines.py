"""The engines themselves, each in its own process, on a tiny model: the same weights, so the same tokens."""

import importlib.util
import multiprocessing
from functools import partial
from pathlib import Path

import pytest

from model_service.bench.children import ChildFailed, Worker, in_child
from model_service.bench.contestants import Entry, entries, formats, missing, multiplies_bf16
from model_service.bench.engines import load
from model_service.bench.models import BenchModel, open_model
from model_service.bench.task import Task
from tests.bench.idle import Idle
from tests.support.tiny_models import save_tiny_generator

TASK = Task(batch=3, prompt_len=6, new_tokens=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    """A model that would end every text at once, if its config were asked."""
    root = tmp_path_factory.mktemp("bench")
    folder = save_tiny_generator(root / "tiny")
    return open_model(str(folder), root / "cache", root / "log")


@pytest.fixture(scope="module")
def expected(model: BenchModel) -> list[list[int]]:
    import torch
    from transformers import GPT2LMHeadModel

    reference = GPT2LMHeadModel.from_pretrained(model.folder)
    reference.generation_config.eos_token_id = None
    prompts = torch.tensor(TASK.prompts(257))
    made = reference.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=8, do_sample=False, pad_token_id=0
    )
    return made[:, 6:].tolist()  # type: ignore[no-any-return]


def worker(model: BenchModel, entry: Entry) -> Worker:
    return Worker(entry, partial(load, entry, model.path_for(entry), "cpu"), model.log)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("punchline", "float32"),
        Entry("llama.cpp", "F32"),
        Entry("ctranslate2", "float32"),
        Entry("transformers", "float32"),
    ],
    ids=str,
)
def test_every_engine_makes_transformers_tokens_from_its_own_file_of_the_same_weights(
    model: BenchModel, expected: list[list[int]], entry: Entry
) -> None:
    if lacking := missing(entry.engine):
        pytest.skip(f"{', '.join(lacking)} not installed")
    engine = worker(model, entry)
    try:
        engine.prepare(TASK)
        outcome = engine.run(TASK)
    finally:
        engine.close()
    assert outcome.token_ids == expected
    assert outcome.seconds > 0


@pytest.mark.parametrize("weights", ["F16", "Q8_0"])
@pytest.mark.skipif(bool(missing("llama.cpp")), reason="llama-cpp-python or gguf not installed")
def test_llama_cpp_reads_the_smaller_formats_too(model: BenchModel, expected: list[list[int]], weights: str) -> None:
    engine = worker(model, Entry("llama.cpp", weights))
    try:
        engine.prepare(TASK)
        made = engine.run(TASK).token_ids
    finally:
        engine.close()
    assert [len(ids) for ids in made] == [8, 8, 8]
    assert sum(a[0] == b[0] for a, b in zip(made, expected, strict=True)) >= 2, "rounding may turn one near tie"


def idle(log: Path) -> Worker:
    return Worker(Entry("idle", "none"), Idle, log)


def test_an_engine_that_cannot_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="there is no engine 'vllm'"):
        Worker(Entry("vllm", "F16"), partial(load, Entry("vllm", "F16"), tmp_path, "cpu"), tmp_path / "log")


def test_an_engine_that_is_killed_is_an_error_and_no_endless_wait(tmp_path: Path) -> None:
    engine = idle(tmp_path / "log")
    (process,) = multiprocessing.active_children()
    process.kill()
    with pytest.raises(ChildFailed, match="its process ended with exit code -9"):
        engine.run(TASK)
    engine.close()


def test_an_engine_that_fails_once_says_why_and_goes_on(tmp_path: Path) -> None:
    engine = idle(tmp_path / "log")
    try:
        with pytest.raises(ChildFailed, match=r"^nothing to do$"):
            engine.prepare(Task(0, 1, 1))
        assert engine.run(Task(2, 1, 3)).token_ids == [[1, 1, 1]] * 2
    finally:
        engine.close()
    log = (tmp_path / "log").read_text()
    assert "to the log, not to the results" in log
    assert "in so many words" in log
    assert multiprocessing.active_children() == []


def test_what_a_child_raises_comes_back_as_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"nowhere has no config\.json"):
        in_child(tmp_path / "log", "models.link_checkpoint", Path("nowhere"), tmp_path / "target")


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    hidden = {"llama_cpp", "gguf", "ctranslate2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else real(name))


def test_formats_are_those_that_can_be_the_fastest_or_all_of_them(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\nbugs\t\t:\n")
    assert multiplies_bf16(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f\nbugs\t\t: avx512_bf16\n")
    assert not multiplies_bf16(cpuinfo)
    assert not multiplies_bf16(tmp_path / "nothing")
    assert formats("llama.cpp", every=True) == ("F32", "F16", "BF16", "Q8_0")
    assert set(formats("llama.cpp")) >= {"Q8_0", "F16"}
    assert [e.engine for e in entries(("transformers", "punchline"))] == ["punchline", *["transformers"] * 2]


def test_what_is_missing_is_known_by_its_package(no_peers: None) -> None:
    assert missing("llama.cpp") == ["llama_cpp", "gguf"]
    assert missing("ctranslate2") == ["ctranslate2"]
    assert missing("punchline") == missing("transformers") == []
