"""`bench gpu` without a GPU: what it counts, what it says, and the step it times."""

from pathlib import Path

import pytest

from model_service.bench import gpu
from model_service.bench.contestants import Entry
from model_service.bench.gpu import Spent, decode_bytes, ratios
from tests.support.tiny_models import save_tiny_generator

OURS, DYNAMIC, STATIC = (
    Entry("punchline", "float16"),
    Entry("transformers", "float16"),
    Entry("transformers", "float16 static"),
)


def test_a_step_of_xl_reads_every_weight_but_the_other_positions() -> None:
    whole = 1_557_611_200 - 1024 * 1600  # parameters of GPT-2 XL (Radford et al. 2019) without the position embedding
    assert decode_bytes({"n_embd": 1600, "n_layer": 48, "vocab_size": 50257}, itemsize=2) == 2 * whole


def test_each_peer_has_a_ratio_of_its_own() -> None:
    spent = {OURS: Spent([2.0, 1.0, 1.5], 0), DYNAMIC: Spent([15.0] * 3, 0), STATIC: Spent([4.5, 3.0, 2.0], 0)}
    assert ratios(spent, OURS) == {"float16": 10.0, "float16 static": 2.0}
    assert ratios(spent, DYNAMIC) == {"float16": 1.0, "float16 static": 0.2}


def test_without_a_gpu_it_says_so_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main("gpt2-xl", cache=tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "There is no CUDA device here" in err


def test_the_timed_step_is_the_engines_own_plain_and_compiled(tmp_path: Path) -> None:
    folder = save_tiny_generator(tmp_path / "tiny")
    found = gpu.steps(folder, "cpu", 2, ("plain",))
    assert [(row["batch"], row["layers"]) for row in found] == [(2, "plain")]
    assert found[0]["median_ms"] > 0
    assert found[0]["weight_bytes"] == decode_bytes({"n_embd": 32, "n_layer": 2, "vocab_size": 257}, itemsize=4)
