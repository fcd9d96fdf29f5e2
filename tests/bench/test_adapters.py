"""What adapters cost: measured on the engine itself, in rounds that only differ in the adapters."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from model_service.bench.adapters import COUNTS, Speeds, time_rounds
from model_service.bench.rounds import WrongTokens
from tests.support.tiny_models import save_tiny_generator


def endless(folder: Path) -> Path:
    """Let no token end a text, as the bench's models do."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": -1}))
    return folder


def test_the_cost_is_what_is_lost_against_the_same_round_without() -> None:
    speeds = Speeds("int8", {0: [100.0, 200.0, 50.0], 1: [90.0, 190.0, 50.0], 8: [80.0, 150.0, 40.0]})
    assert speeds.cost(8) == pytest.approx(0.2)
    assert speeds.cost(1) == pytest.approx(0.05)
    assert speeds.cost(0) == 0


def test_every_round_decodes_with_none_one_and_all_adapters(tmp_path: Path) -> None:
    speeds = time_rounds(endless(save_tiny_generator(tmp_path)), "cpu", rounds=2)
    assert {count: len(figures) for count, figures in speeds.by_count.items()} == dict.fromkeys(COUNTS, 2)
    assert all(figure > 0 for figures in speeds.by_count.values() for figure in figures)


def test_a_text_that_ends_early_is_no_measurement(tmp_path: Path) -> None:
    folder = save_tiny_generator(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.weight"].zero_()
    tensors["transformer.ln_f.bias"].copy_(
        10 * tensors["transformer.wte.weight"][256]
    )  # end of text, whatever was said
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WrongTokens, match="made 0 tokens instead of 512"):
        time_rounds(folder, "cpu", rounds=1)
