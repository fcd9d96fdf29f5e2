"""The client of `bench serve`, in a process of its own: it reads streams over the Unix socket, as the bot does."""

import asyncio
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from model_service.bench.task import Task

READY_S = 120.0
ANSWER_S = 600.0
PRINTABLE = (
    94  # ids of `!` to `~` in GPT-2's vocabulary and in ours: their text comes at once, a part of a letter waits
)
USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Served:
    """What the client saw: seconds of the whole batch, and the time to the first token of single requests."""

    seconds: float
    first_token_s: list[float]


def request_batch(socket: Path, model: str, task: Task, singles: int) -> Served:
    """Send a task's prompts at once, then some alone, one after the other. Runs in a child process."""
    return asyncio.run(_request_batch(socket, model, task, singles))


def wait_until_ready(socket: Path) -> None:
    """Wait until the service has loaded its model. Runs in a child process. Raises TimeoutError."""
    asyncio.run(_wait_until_ready(socket))


def _client(socket: Path) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(str(socket), limit=0)
    return aiohttp.ClientSession("http://service", connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_S))


async def _wait_until_ready(socket: Path) -> None:
    limit = time.monotonic() + READY_S
    async with _client(socket) as client:
        while time.monotonic() < limit:
            with suppress(aiohttp.ClientConnectorError):  # it does not listen yet
                async with client.get("/health/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the service was not ready within {READY_S:.0f} s")


async def _request_batch(socket: Path, model: str, task: Task, singles: int) -> Served:
    async with _client(socket) as client:
        prompts = task.prompts(PRINTABLE + 1)
        began = time.perf_counter()
        await asyncio.gather(*(_first_token_s(client, model, ids, task.new_tokens) for ids in prompts))
        seconds = time.perf_counter() - began
        alone = Task(singles, task.prompt_len, 1, seed=task.seed).prompts(PRINTABLE + 1)
        return Served(seconds, [await _first_token_s(client, model, ids, 1) for ids in alone])


async def _first_token_s(client: aiohttp.ClientSession, model: str, prompt_ids: list[int], max_tokens: int) -> float:
    """Read one answer to its end; returns when its first token came. Raises ValueError if it has too few."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt_ids,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    first, tail = 0.0, b""
    async with client.post("/v1/completions", json=body) as answer:
        async for part in answer.content.iter_any():
            if not first and b'"text"' in part:
                first = time.perf_counter() - began
            tail = tail[-1000:] + part
    usage = USAGE.search(tail)
    if answer.status != 200 or usage is None or int(usage[1]) != max_tokens:
        raise ValueError(f"the service answered {answer.status}: {tail[-300:].decode(errors='replace')}")
    return first
