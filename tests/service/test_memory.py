"""What a model took is there again when it has left: measured in a process of its own."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.support.service_process import environment
from tests.support.tiny_models import save_tiny_generator

ROOM = 1.1  # of what the process took before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_model_of_100_mb_that_leaves_gives_its_memory_back(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(save_tiny_generator, tmp_path, n_embd=768, n_layer=4, n_head=12)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.memory_run", str(folder), "float32",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    async with asyncio.timeout(60):
        printed, problems = await child.communicate()
    assert child.returncode == 0, problems.decode()
    rounds = json.loads(printed)
    start = rounds[0]["before"]
    for figures in rounds:
        assert figures["with"] > figures["before"] + 100e6, rounds
        assert figures["after"] < ROOM * start, rounds
