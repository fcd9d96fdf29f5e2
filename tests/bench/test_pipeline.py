"""`bench pipeline` end to end on a tiny model, and how layers are divided among cores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_service.bench.pipeline import Found, even, slowest
from tests.operations.builders import clean_environment
from tests.support.tiny_models import save_tiny_generator

FIELDS = ["naive_tokens_per_s", "pipelined_tokens_per_s", "ratio", "in_flight"]


def test_it_prints_a_json_object_for_a_number_in_flight_and_nothing_else(tmp_path: Path) -> None:
    tiny = save_tiny_generator(tmp_path / "tiny", n_layer=4)
    argv = ["-m", "model_service", "bench", "pipeline", "--model", str(tiny), "--in-flight", "5", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *argv, "--cache", str(tmp_path / "cache"), "--json"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(each) for each in found] == [FIELDS]
    assert [each["in_flight"] for each in found] == [5]
    for each in found:
        assert each["ratio"] == pytest.approx(each["pipelined_tokens_per_s"] / each["naive_tokens_per_s"], abs=0.01)


@pytest.mark.parametrize(
    ("head_s", "layers"),
    [(0.0, [range(6), range(6, 12)]), (4.0, [range(8), range(8, 12)]), (50.0, [range(11), range(11, 12)])],
    ids=["no head", "a head like four layers", "a head like fifty"],
)
def test_layers_are_divided_so_that_the_slowest_stage_is_as_fast_as_can_be(head_s: float, layers: list[range]) -> None:
    assert even(12, 2, layer_s=1.0, head_s=head_s) == layers


def test_every_way_to_divide_layers_is_weighed() -> None:
    assert even(7, 3, 1.0, 1.5) == [range(3), range(3, 6), range(6, 7)]
    assert slowest((0, 3, 6, 7), 1.0, 1.5) == 3.0


def test_the_ratio_is_that_of_the_two_speeds() -> None:
    assert Found(8, naive=50.0, pipelined=90.0, micro_batches=2, same=1.0, layers=()).ratio == 1.8
