"""`bench train` end to end on a tiny model: what it prints, and how its figures are made of rounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_service.bench.contestants import Entry
from model_service.bench.train import ADAPTER, CHOSEN, PACKED, STARTER, USUAL, figures, read_jokes, shares
from tests.operations.builders import clean_environment
from tests.support.tiny_models import save_tiny_generator


@pytest.mark.timeout(300)
def test_it_prints_the_usual_loop_and_ours_with_memory_and_shares(tmp_path: Path) -> None:
    tiny = save_tiny_generator(tmp_path / "tiny")
    argv = ["-m", "model_service", "bench", "train", "--model", str(tiny), "--steps", "2", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *argv, "--cache", str(tmp_path / "cache"), "--json"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "cache" / "engines.log").read_text()
    *found, last = [json.loads(line) for line in done.stdout.splitlines()]
    usual, packed, *chosen, adapter = found
    assert (usual["engine"], usual["weights"]) == ("transformers", "full float32")
    assert [each["engine"] for each in (packed, *chosen, adapter)] == ["punchline"] * (len(found) - 1)
    assert (packed["weights"], adapter["weights"].split()[0]) == ("full float32", "lora")
    assert all(each["batch"] == 8 and each["tokens_per_s"] > 0 and each["peak_bytes"] > 2**27 for each in found)
    assert usual["ratio_to_best_peer"] == 1
    assert last["share_of_packing"] == packed["ratio_to_best_peer"]
    assert (last["share_of_precision"] == 1) == (not chosen), "there is a row of its own where auto is not float32"


def rounds(*tokens_per_s: int) -> list[list[int]]:
    return [[speed * 2, 2_000_000, 100 + speed] for speed in tokens_per_s]


def test_ratios_are_those_of_each_round_and_shares_multiply_to_them() -> None:
    runs = {
        USUAL: rounds(10, 20, 10),
        PACKED: rounds(20, 30, 20),
        CHOSEN: rounds(40, 80, 40),
        ADAPTER: rounds(50, 20, 50),
    }
    trained = figures(runs, {entry: entry.weights for entry in runs}, jokes=4)
    by_entry = {each.entry: each for each in trained}
    assert [by_entry[entry].ratio for entry in runs] == [1, 2, 4, 5]
    assert by_entry[USUAL].tokens_per_s == 10
    assert by_entry[USUAL].jokes_per_s == 2
    assert by_entry[USUAL].peak_bytes == 120
    assert shares(trained) == pytest.approx({"packing": 2, "precision": 2, "adapter": 1.25})


def test_without_another_format_its_share_is_one() -> None:
    runs: dict[Entry, list[list[int]]] = {USUAL: rounds(10), PACKED: rounds(30)}
    found = shares(figures(runs, {entry: entry.weights for entry in runs}, jokes=1))
    assert found == {"packing": 3, "precision": 1, "adapter": 1}


def test_a_seed_draws_the_same_jokes_for_everybody() -> None:
    assert read_jokes(STARTER, 50, seed=1) == read_jokes(STARTER, 50, seed=1) != read_jokes(STARTER, 50, seed=2)
    assert len(read_jokes(STARTER, 5000, seed=1)) == 5000
