"""docs/placement.md shows what the commands print. `python -m tests.placement.test_placement_doc` writes it in."""

import re
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.operations.builders import punchline

DOCUMENT = Path(__file__).parents[2] / "docs" / "placement.md"
EXAMPLE = re.compile(r"```console\n\$ punchline ([^\n]+)\n(.*?)```\n", re.DOTALL)


def printed(command: str, folder: Path) -> str:
    """What a command shows: its output, then what it says on standard error."""
    ended = punchline(*shlex.split(command), cwd=folder)
    assert "Traceback" not in ended.stderr
    return "".join(f"{line.rstrip()}\n" for line in (ended.stdout + ended.stderr).splitlines())


def renewed(text: str, show: Callable[[str], str]) -> str:
    """The document with what its commands print now."""
    return EXAMPLE.sub(lambda found: f"```console\n$ punchline {found[1]}\n{show(found[1])}```\n", text)


@pytest.mark.parametrize("command", [found[1] for found in EXAMPLE.finditer(DOCUMENT.read_text())])
def test_the_examples_are_what_the_commands_print(command: str, tmp_path: Path) -> None:
    shown = next(found[2] for found in EXAMPLE.finditer(DOCUMENT.read_text()) if found[1] == command)
    assert printed(command, tmp_path) == shown, "python -m tests.placement.test_placement_doc writes them again"


def test_the_examples_of_the_promise_are_there() -> None:
    text = DOCUMENT.read_text()
    for example in (
        "10GB,10GB,10GB --models gpt-j-6b",
        "8GB,8GB --models distilgpt2,gpt2,",
        "4GB,cpu:16GB --models gpt2-xl",
    ):
        assert f"$ punchline plan --simulate {example}" in text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        DOCUMENT.write_text(renewed(DOCUMENT.read_text(), lambda command: printed(command, Path(folder))))
    sys.stdout.write(f"{DOCUMENT.name}: examples written\n")
