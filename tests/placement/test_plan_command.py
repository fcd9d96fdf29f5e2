"""`punchline plan`: JSON for programs, a table for people, a sentence for what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from model_service.config import CommonSettings, ModelSettings
from model_service.held_models import EMBEDDED_MODELS
from model_service.placement.plan_command import Request, run
from model_service.placement.sizes import Sizes
from model_service.placement.variants import VARIANTS
from tests.operations.builders import clean_environment, punchline, without_torch, write_tiny_models
from tests.placement.builders import GIB


def planned(folder: Path, *argv: str) -> dict[str, Any]:
    """Run `punchline plan … --json` where torch is missing; its standard output must be that JSON alone."""
    ended = punchline("plan", *argv, "--json", cwd=folder, env=clean_environment(**without_torch(folder)))
    assert (ended.returncode, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(ended.stdout)
    assert ended.stdout.count("\n") == 1
    return found


def test_devices_that_are_not_there_are_planned_without_torch_and_without_traces(tmp_path: Path) -> None:
    made = planned(tmp_path, "--simulate", "10GiB,10GiB,10GiB", "--models", "gpt-j-6b,gpt2-xl")
    assert list(made) == ["devices", "models"]
    assert [list(device) for device in made["devices"]] == [["name", "total_bytes", "used_bytes"]] * 3
    assert [(d["name"], d["total_bytes"]) for d in made["devices"]] == [(f"cuda:{i}", 10 * GIB) for i in range(3)]
    assert [list(model) for model in made["models"]] == [["name", "weights", "layers", "bytes"]] * 2
    assert [(m["name"], m["weights"]) for m in made["models"]] == [("gpt-j-6b", "float16"), ("gpt2-xl", "float16")]
    for model in made["models"]:
        sizes = Sizes(VARIANTS[model["name"]])
        there = [layer for first, last in model["layers"].values() for layer in range(first, last + 1)]
        assert there == list(range(sizes.shape.n_layer))
        assert model["layers"].keys() == model["bytes"].keys()
        least = sizes.weights(sizes.all_layers, "float16") + sizes.slot(sizes.all_layers, "float16", "gpu")
        assert sum(model["bytes"].values()) > least
    for device in made["devices"]:
        assert device["used_bytes"] == sum(model["bytes"].get(device["name"], 0) for model in made["models"])
        assert device["used_bytes"] <= 0.95 * device["total_bytes"]
    assert not (tmp_path / "var").exists()


def test_sizes_are_read_as_people_write_them(tmp_path: Path) -> None:
    made = planned(tmp_path, "--simulate=8000MB, 8gb,0.5 GiB,cpu:16384MiB", "--models=gpt2")
    assert [(d["name"], d["total_bytes"]) for d in made["devices"]] == [
        ("cuda:0", 8 * 10**9),
        ("cuda:1", 8 * 10**9),
        ("cuda:2", GIB // 2),
        ("cpu", 16 * GIB),
    ]


@pytest.mark.parametrize(
    ("devices", "models", "status", "sentence"),
    [
        (
            "10",
            "gpt2",
            2,
            "--simulate: '10' is no amount of memory: write it like 10GiB, 8GB, 512MiB or 512MB; a list is written"
            " 10GiB,10GiB,cpu:16GB.\n",
        ),
        ("1GiB,", "gpt2", 2, "--simulate: '' is no amount of memory: "),
        ("0GiB", "gpt2", 2, "--simulate: '0GiB' is no amount of memory: "),
        ("cpu:1GiB,cpu:2GiB", "gpt2", 2, "--simulate names the CPU twice; "),
        (
            "10GiB",
            "gpt2-xxl",
            2,
            "There is no model 'gpt2-xxl' to plan. Did you mean gpt2-xl? Known: distilgpt2, gpt-j-6b, gpt2,"
            " gpt2-medium, gpt2-large, gpt2-xl, jokes-mini, sentiment-mini.\n",
        ),
        ("10GiB", "gpt2,gpt2", 2, "--models names gpt2 more than once.\n"),
        ("10GiB", "gpt-j-6b", 1, "GiB (float16 weights 11.3 GiB, one sequence 898 MiB, working memory "),
        (
            "4GiB",
            "gpt2-large,gpt2-medium,gpt2,distilgpt2",
            1,
            "distilgpt2 does not fit beside the others: it needs ",
        ),
    ],
)
def test_what_cannot_be_is_said_on_standard_error(
    devices: str, models: str, status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(CommonSettings(), EMBEDDED_MODELS, Request(devices, models)) == status
    assert sentence in capsys.readouterr().err


def test_a_model_that_cannot_be_read_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    broken = ModelSettings(name="mine", source="/nowhere/at/all")
    assert run(CommonSettings(), (broken, *EMBEDDED_MODELS), Request("8GB", as_json=True)) == 1
    shown = capsys.readouterr()
    assert [model["name"] for model in json.loads(shown.out)["models"]] == ["jokes-mini", "sentiment-mini"]
    assert shown.err == "mine: /nowhere/at/all is neither a folder nor a hub id like openai-community/gpt2.\n"


def test_a_mistyped_option_is_a_sentence(tmp_path: Path) -> None:
    ended = punchline("plan", "--simulat", "10GiB", cwd=tmp_path)
    assert ended.returncode == 2
    assert "No such option: --simulat" in ended.stderr


def test_with_json_what_has_no_place_is_left_out_of_it_and_said_elsewhere(tmp_path: Path) -> None:
    ended = punchline("plan", "--simulate", "10GiB", "--models", "gpt-j-6b,gpt2", "--json", cwd=tmp_path)
    assert ended.returncode == 1
    assert [model["name"] for model in json.loads(ended.stdout)["models"]] == ["gpt2"]
    assert ended.stderr.startswith("gpt-j-6b does not fit: ")


def test_this_machine_and_the_settings_are_planned_by_default(tmp_path: Path) -> None:
    write_tiny_models(tmp_path)
    tables = (tmp_path / "punchline.toml").read_text()
    budgets = 'device_memory = { "cpu:0" = "2GiB", "cpu:1" = "1GiB" }'
    (tmp_path / "punchline.toml").write_text(f"[service]\n{budgets}\nmax_num_seqs = 3\n{tables}")
    ended = punchline("plan", "--json", cwd=tmp_path, env=clean_environment(CUDA_VISIBLE_DEVICES=""))
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout)
    assert [(d["name"], d["total_bytes"]) for d in made["devices"]] == [("cpu:0", 2 * GIB), ("cpu:1", GIB)]
    assert [(m["name"], m["layers"]) for m in made["models"]] == [
        ("jokes-mini", {"cpu:1": [0, 1]}),
        ("sentiment-mini", {"cpu:1": [0, 1]}),
    ]
    shown = punchline("plan", "--simulate", "cpu:1GiB", "--models", "jokes-mini", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.replace("│", " ").split())
    assert "jokes-mini" in text
    assert "layers 0-1" in text
    assert "room for all 3" in text
    assert "sentiment-mini" not in text


def test_this_machine_without_torch_says_how_to_get_it(tmp_path: Path) -> None:
    ended = punchline("plan", cwd=tmp_path, env=clean_environment(**without_torch(tmp_path)))
    assert ended.returncode == 2
    assert ended.stderr.startswith("The model service is not installed here.")


def test_help_names_the_options(tmp_path: Path) -> None:
    ended = punchline("plan", "--help", cwd=tmp_path, env=clean_environment(**without_torch(tmp_path)))
    assert ended.returncode == 0
    assert all(option in ended.stdout for option in ("--simulate", "--models", "--json"))
