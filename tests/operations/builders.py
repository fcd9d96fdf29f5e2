"""Folders and environments to run the real commands in."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator

TINY_MODELS = """
[[service.models]]
name = "jokes-mini"
source = "generator"

[[service.models]]
name = "sentiment-mini"
source = "classifier"
task = "classify"
"""

HIDE_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = {"torch", "transformers", "fastapi", "uvicorn", "safetensors", "tokenizers"}
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
"""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path leaves room for a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        yield Path(folder)


def write_tiny_models(folder: Path) -> None:
    """Write two tiny models and a punchline.toml that names them as the embedded ones are named."""
    save_tiny_generator(folder / "generator")
    save_tiny_classifier(folder / "classifier")
    (folder / "punchline.toml").write_text(TINY_MODELS)


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without anybody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PUNCHLINE_", "DISCORD_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def without_torch(folder: Path) -> dict[str, str]:
    """Environment in which what the bot's image does not hold cannot be imported."""
    (folder / "sitecustomize.py").write_text(HIDE_TORCH)
    return {"PYTHONPATH": str(folder)}


def python(
    *argv: str, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 80
) -> subprocess.CompletedProcess[str]:
    """Run `python …` to its end in a folder."""
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env=env or clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def punchline(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `punchline …` to its end in a folder."""
    return python("-m", "bot", *argv, cwd=cwd, env=env)


def until_exists(path: Path, limit_s: float = 60) -> None:
    """Wait for a file that another process makes."""
    limit = time.monotonic() + limit_s
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.02)


@contextmanager
def running(argv: Sequence[str], cwd: Path, env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a program beside the test; at the end of the block it is killed if it still lives."""
    with subprocess.Popen(
        [sys.executable, *argv], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
