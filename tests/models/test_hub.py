"""Models by hub id: fetched once, found again without a network, and a sentence where neither works."""

import subprocess
import sys
from pathlib import Path

from tests.operations.builders import clean_environment
from tests.support.model_hub import model_hub

FIND = """
import sys
from model_service.models.folder import PICKLES, SAFETENSORS, CheckpointError, find_folder
try:
    folder = find_folder(sys.argv[1], PICKLES if sys.argv[2:] else SAFETENSORS)
    print("found", *sorted(p.name for p in folder.iterdir()))
except CheckpointError as error:
    print(error)
assert "torch" not in sys.modules
"""
HUB = {
    "who/tiny": {"config.json": b"{}", "model.safetensors": b"weights", "train.py": b"import os", "README.md": b"x"},
    "who/old": {"config.json": b"{}", "pytorch_model.bin": b"weights"},
    "who/other": {"config.json": b"{}", "flax_model.msgpack": b"weights"},
}
NOBODY = "http://127.0.0.1:9"


def find(source: str, cache: Path, address: str, *to_convert: str, **env: str) -> str:
    env = {"HF_HOME": str(cache), "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", **env}
    ended = subprocess.run(
        [sys.executable, "-c", FIND, source, *to_convert],
        env=clean_environment(**env),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_hub_id_is_fetched_once_without_programs_and_found_again_offline(tmp_path: Path) -> None:
    with model_hub(HUB) as (address, fetched):
        assert find("who/tiny", tmp_path, address) == "found config.json model.safetensors"
        assert sorted(fetched) == ["config.json", "model.safetensors"]
        assert find("who/tiny", tmp_path, address) == "found config.json model.safetensors"
        assert len(fetched) == 2
    assert find("who/tiny", tmp_path, NOBODY) == "found config.json model.safetensors"
    assert find("who/tiny", tmp_path, NOBODY, HF_HUB_OFFLINE="1") == "found config.json model.safetensors"


def test_a_repository_without_safetensors_says_what_to_do(tmp_path: Path) -> None:
    with model_hub(HUB) as (address, fetched):
        said = find("who/old", tmp_path, address)
        assert said.startswith("who/old holds pytorch_model.bin, but only safetensors are loaded.")
        assert said.endswith("Convert them once: punchline convert who/old FOLDER")
        assert "pytorch_model.bin" not in fetched
        assert find("who/old", tmp_path, address, "to convert") == "found config.json pytorch_model.bin"
        assert find("who/other", tmp_path, address) == "who/other holds no safetensors: it cannot be loaded."


def test_without_the_hub_or_without_the_model_there_is_one_sentence(tmp_path: Path) -> None:
    sentence = "who/tiny is not on this machine, and the hub cannot be reached to download it. Check the network"
    assert find("who/tiny", tmp_path, NOBODY).startswith(sentence)
    assert find("who/tiny", tmp_path, NOBODY, HF_HUB_OFFLINE="1").startswith(sentence)
    with model_hub(HUB) as (address, _):
        said = find("who/nothing", tmp_path, address)
    assert said.startswith("There is no model who/nothing on the hub")
    assert "\n" not in said
