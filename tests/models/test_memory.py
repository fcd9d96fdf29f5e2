"""Reading a checkpoint takes what the model takes and one layer more: measured, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model_service.models.layout import tensor_sizes
from model_service.models.shape import GPT2Shape
from model_service.models.stored import CONV1D
from model_service.native.library import why_not
from tests.models.peak_memory import WAYS
from tests.support.tiny_models import byte_tokenizer, save_tiny_generator

SHAPE = GPT2Shape(vocab_size=8192, n_positions=32, n_embd=512, n_layer=12, n_head=8)
LAYER = 4 * 12 * SHAPE.n_embd**2  # bytes of a layer in float32
SPARE = 16 << 20  # what it is read through, an empty cache of one slot, and what an allocator rounds up
SHARDS = ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors")
BOUNDED = ("float32", "bfloat16", "int8", "int8 in torch", "second half")
Figures = dict[tuple[str, str], dict[str, Any]]  # by folder and way


def write(whole: Path, sharded: Path) -> None:
    """Write a random float32 checkpoint of 170 MB, in one file and in three."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.{name}": torch.empty(size[::-1] if name.endswith(CONV1D) else size).normal_(generator=generator)
        for name, size in tensor_sizes(SHAPE).items()
        if name != "lm_head.weight"
    }
    places = {name: SHARDS[i % len(SHARDS)] for i, name in enumerate(sorted(tensors))}
    sizes = {name: getattr(SHAPE, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    for folder in (whole, sharded):
        byte_tokenizer().save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    save_file(tensors, whole / "model.safetensors")
    for file in SHARDS:
        save_file({name: tensors[name] for name in tensors if places[name] == file}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """What each way takes, measured in one process after the other."""
    root = tmp_path_factory.mktemp("memory")
    write(root / "whole", root / "sharded")
    there = [way for way in WAYS if way != "gpu" or torch.cuda.is_available()]
    cases = [("whole", way) for way in there] + [("sharded", way) for way in ("float32", "int8", "all at once")]
    argv = [str(save_tiny_generator(root / "tiny")), *(f"{root / folder}={way}" for folder, way in cases)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.models.peak_memory", *argv],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # as in the service
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(zip(cases, map(json.loads, ended.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", [*(("whole", way) for way in BOUNDED), ("sharded", "float32"), ("sharded", "int8")])
def test_reading_takes_no_more_than_the_model_and_one_layer(figures: Figures, case: tuple[str, str]) -> None:
    figure = figures[case]
    assert figure["peak"] <= figure["says"] + LAYER + SPARE, figure
    assert figure["stays"] <= figure["says"] + SPARE, figure


def test_reading_to_another_device_takes_a_few_pieces_of_the_host(figures: Figures) -> None:
    assert figures["whole", "elsewhere"]["peak"] <= SPARE  # 1.2 times the file would be 200 MB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")
def test_reading_to_a_gpu_takes_less_of_the_host_than_the_file(figures: Figures) -> None:
    figure = figures["whole", "gpu"]
    assert figure["says"] > 80e6
    assert figure["peak"] < figure["says"], figure


@pytest.mark.parametrize("folder", ["whole", "sharded"])
def test_the_measurement_notices_a_model_that_is_read_all_at_once(figures: Figures, folder: str) -> None:
    figure = figures[folder, "all at once"]
    assert figure["peak"] > figure["says"] + LAYER + SPARE, figure


def test_formats_take_what_they_should(figures: Figures) -> None:
    numbers = SHAPE.n_layer * 12 * SHAPE.n_embd**2 + (SHAPE.vocab_size + SHAPE.n_positions) * SHAPE.n_embd
    says = {way: figures["whole", way]["says"] for way in BOUNDED}
    assert says["float32"] == pytest.approx(4 * numbers, rel=0.01)
    assert says["bfloat16"] == pytest.approx(2 * numbers, rel=0.01)
    assert says["second half"] < says["float32"] * 0.6
    if not why_not():
        assert says["int8"] < numbers * 1.4
