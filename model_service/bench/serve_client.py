"""The client of `bench serve`, in a process of its own: streams over the service's Unix socket.

It shares two cores with the engine, so it is as cheap as a client can be: one thread, plain sockets, and no event is
parsed before the stream has ended.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_service.bench.task import Task

READY_S = 120.0
ANSWER_S = 600.0
PRINTABLE = 94  # ids of `!` to `~` in GPT-2's vocabulary and in ours: their text comes at once, half a character waits
USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
TAIL_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Served:
    """What the client saw: seconds of the whole batch, and the time to the first token of single requests."""

    seconds: float
    first_token_s: list[float]


@dataclass(slots=True)
class _Reading:
    """One answer on its way."""

    began: float
    first_s: float = 0.0
    tail: bytearray = field(default_factory=bytearray)


def request_batch(path: Path, model: str, task: Task, singles: int) -> Served:
    """Send a task's prompts at once, then some alone, one after the other. Runs in a child process."""
    prompts = task.prompts(PRINTABLE + 1)
    began = time.perf_counter()
    read_all(path, model, prompts, task.new_tokens)
    seconds = time.perf_counter() - began
    alone = Task(singles, task.prompt_len, 1, seed=task.seed).prompts(PRINTABLE + 1)
    return Served(seconds, [read_all(path, model, [prompt_ids], 1)[0] for prompt_ids in alone])


def request_many(path: Path, model: str, task: Task, at_once: int) -> float:
    """Send a task's prompts, so many at once; answers may end early. Returns the seconds. Runs in a child process."""
    prompts = task.prompts(PRINTABLE + 1)
    began = time.perf_counter()
    for start in range(0, len(prompts), at_once):
        read_all(path, model, prompts[start : start + at_once], task.new_tokens, least=0)
    return time.perf_counter() - began


def wait_until_ready(path: Path) -> None:
    """Wait until the service has loaded its model. Runs in a child process. Raises TimeoutError."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with _connection(
                path, b"GET /health/ready HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
            ) as answer:
                if answer.recv(64).startswith(b"HTTP/1.1 200 "):
                    return
        except OSError:  # it does not listen yet
            pass
        time.sleep(0.1)
    raise TimeoutError(f"the service did not get ready in {READY_S:.0f} s")


def read_all(
    path: Path, model: str, prompts: Seq[list[int]], max_tokens: int, *, least: int | None = None
) -> list[float]:
    """Stream an answer to each prompt, all at once; returns when the first token of each came, in seconds.

    Raises ValueError if an answer has fewer than `least` tokens, all of them by default.
    """
    selector, readings = selectors.DefaultSelector(), []
    for prompt_ids in prompts:
        reading = _Reading(time.perf_counter())
        readings.append(reading)
        selector.register(_connection(path, _request(model, prompt_ids, max_tokens)), selectors.EVENT_READ, reading)
    while selector.get_map():
        for key, _ in selector.select(ANSWER_S):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if not _read(connection, key.data):
                selector.unregister(connection)
                connection.close()
    for reading in readings:
        usage = USAGE.search(reading.tail)
        if usage is None or int(usage[1]) < (max_tokens if least is None else least):
            raise ValueError(f"the service answered {reading.tail[-300:].decode(errors='replace')}")
    return [reading.first_s for reading in readings]


def _read(connection: socket.socket, reading: _Reading) -> bool:
    """Read what is there; false at the end of the answer."""
    part = connection.recv(2**16)
    if not reading.first_s and b'"text"' in part:
        reading.first_s = time.perf_counter() - reading.began
    reading.tail += part
    del reading.tail[:-TAIL_BYTES]
    return bool(part)


def _connection(path: Path, request: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    connection.connect(str(path))
    connection.sendall(request)
    return connection


def _request(model: str, prompt_ids: list[int], max_tokens: int) -> bytes:
    """Write a whole request. Each has a connection of its own, as the bot's have; a short answer counts that too."""
    asked: dict[str, Any] = {
        "model": model,
        "prompt": prompt_ids,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = json.dumps(asked).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: service\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
