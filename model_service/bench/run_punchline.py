"""This engine as a contestant: through the public `Engine`, its thread, streams and detokenizer included."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from model_service.bench.task import Task
from model_service.placement.load import share_cores

if TYPE_CHECKING:
    from model_service.engine.engine import Engine
    from model_service.engine.stream import Stream


class Punchline:
    """The engine as the service loads it, with as many slots as a task has prompts."""

    def __init__(self, folder: Path, weights: str, device: str) -> None:
        self._folder, self._wanted, self._device = folder, weights, device
        self._runner = asyncio.Runner()
        self._engine = self._load(1)

    @property
    def weights(self) -> str:
        """The number format; what `auto` chose."""
        return self._engine.weights

    def prepare(self, task: Task) -> None:
        """Load it anew with a slot per prompt."""
        self._runner.run(self._engine.close())
        self._engine = self._load(task.batch)

    def run(self, task: Task) -> list[list[int]]:
        """Submit all prompts at once and read all streams to their ends."""
        return self._runner.run(self._answers(task))

    async def _answers(self, task: Task) -> list[list[int]]:
        streams = submit(self._engine, task)
        return await asyncio.gather(*(token_ids(stream) for stream in streams))

    def _load(self, max_num_seqs: int) -> "Engine":
        return open_engine(self._folder, self._wanted, self._device, max_num_seqs)


def open_engine(folder: Path, weights: str, device: str, max_num_seqs: int) -> "Engine":
    """Load a model as the service does: idle threads sleep, and that is decided before torch is imported."""
    share_cores()
    from model_service.engine.engine import Engine
    from model_service.engine.loading import load

    engine = load(str(folder), "generate", model_id="bench", weights=weights, device=device, max_num_seqs=max_num_seqs)
    assert isinstance(engine, Engine)
    return engine


def submit(engine: "Engine", task: Task) -> list["Stream"]:
    """Submit a task's prompts, greedily."""
    from model_service.engine.sequence import SamplingParams

    params = SamplingParams(max_tokens=task.new_tokens, temperature=0)
    return [engine.submit(prompt_ids, params) for prompt_ids in task.prompts(engine.vocab_size)]


async def token_ids(stream: "Stream") -> list[int]:
    """Read a stream to its end."""
    async with stream:
        return [token_id async for piece in stream for token_id in piece.token_ids]
