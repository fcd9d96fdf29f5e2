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
NUM_SHARDS = 3


def write(folder: Path, num_shards: int) -> Path:
    """Write a random float32 checkpoint of 170 MB."""
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {
        f"transformer.{name}": torch.empty(size[::-1] if name.endswith(CONV1D) else size).normal_(std=0.02)
        for name, size in tensor_sizes(SHAPE).items()
        if name != "lm_head.weight"
    }
    names = sorted(tensors)
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        places = {name: f"model-{i % num_shards}.safetensors" for i, name in enumerate(names)}
        for shard in set(places.values()):
            save_file({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = {"model_type": "gpt2", **{k: getattr(SHAPE, k) for k in ("vocab_size", "n_positions", "n_embd")}}
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": SHAPE.n_layer, "n_head": SHAPE.n_head}))
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """By folder and way."""
    root = tmp_path_factory.mktemp("memory")
    tiny = save_tiny_generator(root / "tiny")
    folders = [write(root / "whole", 1), write(root / "sharded", NUM_SHARDS)]
    command = [sys.executable, "-m", "tests.models.peak_memory", *map(str, (tiny, *folders))]
    env = {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",
    }  # as in the service
    ended = subprocess.run(command, capture_output=True, text=True, timeout=80, env=env)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return {(line["folder"], line["way"]): line for line in lines}


@pytest.mark.parametrize("folder", ["whole", "sharded"])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "all at once"])
def test_reading_takes_no_more_than_the_model_and_one_layer(
    figures: dict[tuple[str, str], dict[str, Any]], folder: str, way: str
) -> None:
    figure = figures[folder, way]
    assert figure["peak"] <= figure["says"] + LAYER + SPARE, figure
    assert figure["stays"] <= figure["says"] + SPARE, figure


@pytest.mark.parametrize("folder", ["whole", "sharded"])
def test_the_measurement_notices_a_model_that_is_read_all_at_once(
    figures: dict[tuple[str, str], dict[str, Any]], folder: str
) -> None:
    figure = figures[folder, "all at once"]
    assert figure["peak"] > figure["says"] + LAYER + SPARE, figure


def test_formats_take_what_they_should(figures: dict[tuple[str, str], dict[str, Any]]) -> None:
    numbers = SHAPE.n_layer * 12 * SHAPE.n_embd**2 + (SHAPE.vocab_size + SHAPE.n_positions) * SHAPE.n_embd
    says = {way: figures["whole", way]["says"] for way in WAYS}
    assert says["float32"] == pytest.approx(4 * numbers, rel=0.01)
    assert says["bfloat16"] == pytest.approx(2 * numbers, rel=0.01)
    assert says["second half"] < says["float32"] * 0.6
    if not why_not():
        assert says["int8"] < numbers * 1.4
