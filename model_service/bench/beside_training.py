"""`bench yield`: how much of its speed the service keeps while a training run is at work on the same machine.

    service process <── Unix socket ── client process          the same answers again and again
      └─ the run of a fine-tune: stopped (SIGSTOP), going on (SIGCONT), in turn

Measured twice: with a run that rests between its steps while people are answered (training.rest), and with one that
does not. The model is an embedded one, tuned on jokes that are made up on the spot: what they say does not matter.
"""

import asyncio
import json
import math
import os
import random
import signal
import statistics
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_service.bench.children import in_child
from model_service.bench.report import Report
from model_service.bench.serve import Service, service_on
from model_service.bench.session import Session
from model_service.bench.task import Task
from model_service.config import TrainingSettings

if TYPE_CHECKING:
    from aiohttp.client import _RequestContextManager

MODEL = "jokes-mini"
OK = 200
WORKER = b"model_service.training.worker"
NUM_JOKES = 400
WORDS = (
    "cat",
    "dog",
    "fridge",
    "printer",
    "doctor",
    "bar",
    "walks",
    "asks",
    "says",
    "why",
    "never",
    "again",
    "my",
    "the",
)
LEAST_S = 15.0  # of a measurement: several steps of the run and its rests
START_LIMIT_S = 300.0
COLUMNS = ("model", "streams", "what", "alone, answers/s", "beside a run, answers/s", "share", "steps a minute")


@dataclass(frozen=True, slots=True)
class Found:
    """One setting. Seconds of the same answers; steps that the run made meanwhile, a minute."""

    rest: float
    num_answers: int
    alone_s: list[float]
    beside_s: list[float]
    steps_per_min: float

    @property
    def share(self) -> float:
        """What is left of the service's speed."""
        return statistics.median(a / b for a, b in zip(self.alone_s, self.beside_s, strict=True))


def measure(streams: int, rounds: int, session: Session) -> Report:
    """Measure with and without rests. Raises ChildFailed if the service, the run or the client fails."""
    machine = session.machine()
    founds = []
    with session.bar(2) as bar:
        for rest in (TrainingSettings().rest, 0.0):
            bar.now(f"rest {rest:g}")
            toml = f"[service]\nmax_num_seqs = {streams}\n\n[training]\nrest = {rest}\n"
            with service_on(toml, session) as service:
                founds.append(_alternate(service, rest, streams, rounds, session))
            bar.step()
    rows = [_row(found, streams) for found in founds]
    objects = [
        {"model": MODEL, "streams": streams, "rest": f.rest, "share": round(f.share, 3)}
        | {"steps_per_min": round(f.steps_per_min, 2)}
        for f in founds
    ]
    title = f"The same answers alone and beside a training run on the machine, {rounds} times in turn."
    return Report("yield", title, COLUMNS, rows, objects, (f"Machine: {machine.line}.",))


def _alternate(service: Service, rest: float, streams: int, rounds: int, session: Session) -> Found:
    pid, folder = in_child(session.log, "beside_training.started", service.socket, service.pid)
    alone_s: list[float] = []
    beside_s: list[float] = []
    steps, task, trained_s = 0, Task(streams, 16, 64), 0.0
    took_s = _seconds(service, task, streams, session)  # it warms up
    task = Task(streams * math.ceil(LEAST_S / took_s), 16, 64)
    try:
        for number in range(rounds):
            for running in ((True, False), (False, True))[number % 2]:
                os.kill(pid, signal.SIGCONT if running else signal.SIGSTOP)
                before = _step(folder)
                took_s = _seconds(service, task, streams, session)
                (beside_s if running else alone_s).append(took_s)
                if running:
                    steps, trained_s = steps + _step(folder) - before, trained_s + took_s
    finally:
        os.kill(pid, signal.SIGCONT)
    return Found(rest, task.batch, alone_s, beside_s, 60 * steps / trained_s)


def _seconds(service: Service, task: Task, at_once: int, session: Session) -> float:
    taken: float = in_child(session.log, "serve_client.request_many", service.socket, MODEL, task, at_once)
    return taken


def _row(found: Found, streams: int) -> list[str]:
    alone, beside = (found.num_answers / statistics.median(values) for values in (found.alone_s, found.beside_s))
    what = f"rests {found.rest:g} times its step" if found.rest else "does not rest"
    speeds = [f"{alone:.1f}", f"{beside:.1f}", f"{found.share:.0%}"]
    return [MODEL, str(streams), what, *speeds, f"{found.steps_per_min:.1f}"]


def _step(folder: Path) -> int:
    """Return how far the run is."""
    try:
        return int(json.loads((folder / "progress.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


def started(socket: Path, service: int) -> tuple[int, Path]:
    """Start a fine-tune that does not end soon; return its process and folder once it makes steps. In a child."""
    return asyncio.run(_started(socket, service))


async def _started(socket: Path, service: int) -> tuple[int, Path]:
    import aiohttp

    async with aiohttp.ClientSession("http://service", connector=aiohttp.UnixConnector(str(socket))) as client:
        form = aiohttp.FormData({"purpose": "fine-tune"})
        form.add_field("file", jokes(), filename="jokes.jsonl")
        file = await _answer(client.post("/v1/files", data=form))
        order = {"model": MODEL, "training_file": file["id"], "hyperparameters": {"n_epochs": 100}}
        job = await _answer(client.post("/v1/fine_tuning/jobs", json=order))
    folder = socket.parent / "jobs" / job["id"]
    deadline = time.monotonic() + START_LIMIT_S
    while _step(folder) < 1:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the run made no step in {START_LIMIT_S:.0f} s")
        await asyncio.sleep(0.2)
    return worker_of(service), folder


async def _answer(request: "_RequestContextManager") -> Any:
    async with request as answer:
        if answer.status != OK:
            raise ValueError(f"the service answered {await answer.text()}")
        return await answer.json()


def jokes() -> bytes:
    """Return a file of jokes of ten to forty words."""
    rng = random.Random(0)
    lines = (" ".join(rng.choices(WORDS, k=rng.randint(10, 40))) for _ in range(NUM_JOKES))
    return b"".join(json.dumps({"prompt": "JOKE:", "completion": f" {line}."}).encode() + b"\n" for line in lines)


def worker_of(service: int, processes: Path = Path("/proc")) -> int:
    """Return the process of the service's training run."""
    found: Seq[int] = [
        int(path.name)
        for path in processes.iterdir()
        if path.name.isdigit() and _parent(path) == service and WORKER in (path / "cmdline").read_bytes()
    ]
    if len(found) != 1:
        raise ValueError(f"the service has {len(found)} training runs")
    return found[0]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 0
