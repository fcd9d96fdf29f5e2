"""The two commands: what make would do, without doing it."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def dry_run(target: str) -> str:
    """What `make target` would run on a machine with nothing installed."""
    argv = ["make", "--dry-run", "--always-make", "CHROMIUM=/usr/bin/chromium", target]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # we may be in one
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=30).stdout


def test_make_run_sets_up_and_runs() -> None:
    lines = dry_run("run").splitlines()
    assert lines[-1] == ".venv/bin/punchline run"
    assert any("--constraint constraints.txt --editable '.[service]'" in line for line in lines)
    assert not any("[service,dev" in line for line in lines), "nobody needs the tests' tools to run it"


def test_make_test_sets_up_and_checks_everything() -> None:
    text = dry_run("test")
    for step in ("ruff format --check .", "ruff check .", "/mypy", "/lint-imports", "/pytest", "[service,dev,eval]"):
        assert step in text, step


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make .*", script.read_text(), re.MULTILINE) == ["make test"]


def test_every_version_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!-]+", line) for line in lines)
    assert "torch==2.13.0" in lines
