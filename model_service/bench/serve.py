"""`bench serve`: concurrent streams over the service's socket against the same engine without it.

    service process <── Unix socket ── client process           64 streams, then single requests
    engine process                                              the same task, in turn with the service

Each round runs both. What the service adds to the time to the first token is the difference of the medians.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from model_service.bench.children import Worker, in_child
from model_service.bench.contestants import OURS, Entry
from model_service.bench.engines import load
from model_service.bench.machine import Machine
from model_service.bench.models import BenchModel, open_model
from model_service.bench.report import Report, result
from model_service.bench.session import Bar, Session
from model_service.bench.task import Task

PROMPT_LEN, NEW_TOKENS = 16, 64
SINGLES = 20  # requests of one token in each round
STOP_S = 15.0
COLUMNS = (
    *("model", "weights", "streams", "tokens/s without the service", "over the socket", "share"),
    *("first token ms", "over the socket ms", "added ms"),
)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds: of the whole batch without and with the service, and to the first token of single requests."""

    weights: str
    offline: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    own_first: list[float] = field(default_factory=list)
    served_first: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Service:
    """The running service."""

    socket: Path
    pid: int

    @property
    def memory_bytes(self) -> int:
        """What it holds in memory right now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def measure(source: str, streams: int, rounds: int, session: Session) -> Report:
    """Measure one model. Raises ChildFailed if the engine, the service or the client fails."""
    machine = session.machine()
    model = open_model(source, session.cache, session.log)
    with session.bar(rounds) as bar, running_service(model, streams, session) as service:
        bar.now(f"{model.name}: the engine loads")
        entry = Entry(OURS, "auto")
        worker = Worker(entry, partial(load, entry, model.folder, session.device), session.log)
        try:
            found = _alternate(model.name, worker, service.socket, streams, rounds, session, bar)
        finally:
            worker.close()
    return report(model.name, streams, found, machine)


def _alternate(
    name: str, worker: Worker, socket: Path, streams: int, rounds: int, session: Session, bar: Bar
) -> Rounds:
    """Run the engine alone and the service in turn."""
    task = Task(streams, PROMPT_LEN, NEW_TOKENS)
    worker.prepare(task)
    in_child(session.log, "serve_client.request_batch", socket, name, task, 1)  # the service warms up too
    found = Rounds(worker.ready.weights)
    for number in range(rounds):
        bar.now(f"{name}, {streams} streams, round {number + 1} of {rounds}")
        this = replace(task, seed=1 + number)
        found.offline.append(worker.run(this).seconds)
        singles = [Task(1, PROMPT_LEN, 1, seed=SINGLES * number + i) for i in range(SINGLES)]
        found.own_first.extend(worker.run(single).seconds for single in singles)
        answer = in_child(session.log, "serve_client.request_batch", socket, name, this, SINGLES)
        found.served.append(answer.seconds)
        found.served_first.extend(answer.first_token_s)
        bar.step()
    return found


def report(model: str, streams: int, found: Rounds, machine: Machine) -> Report:
    """Return the medians; the share is the median of each round's own."""
    tokens = streams * NEW_TOKENS
    served = tokens / statistics.median(found.served)
    offline = tokens / statistics.median(found.offline)
    share = statistics.median(a / b for a, b in zip(found.offline, found.served, strict=True))
    own, over = (statistics.median(values) * 1e3 for values in (found.own_first, found.served_first))
    figures = {
        "offline_tokens_per_s": round(offline, 2),
        "share_of_offline": round(share, 3),
        "engine_first_token_ms": round(own, 3),
        "first_token_ms": round(over, 3),
        "added_ms": round(over - own, 3),
    }
    row = [model, found.weights, str(streams), f"{offline:,.0f}", f"{served:,.0f}", f"{share:.0%}"]
    row += [f"{own:.1f}", f"{over:.1f}", f"{over - own:.1f}"]
    title = (
        f"{streams} streams of {NEW_TOKENS} tokens at once over the Unix socket, with the client in another process, "
        f"against the same task in the engine alone: medians of {len(found.served)} alternating rounds; and the time "
        f"to the first token of single requests (medians of {len(found.served_first)})."
    )
    objects = [result(OURS, model, found.weights, streams, served, None, **figures)]
    return Report("serve", title, COLUMNS, [row], objects, (f"Machine: {machine.line}.",))


def running_service(model: BenchModel, streams: int, session: Session) -> AbstractContextManager[Service]:
    """Run the real service with one model and a slot for each stream."""
    devices = "auto" if session.gpu else ["cpu"]
    return service_on(
        f"[service]\nmax_num_seqs = {streams}\n\n[[service.models]]\nname = {json.dumps(model.name)}\n"
        f"source = {json.dumps(str(model.folder))}\ndevices = {json.dumps(devices)}\n",
        session,
    )


@contextmanager
def service_on(toml: str, session: Session) -> Iterator[Service]:
    """Run the real service with these settings; yields it once it is ready."""
    with tempfile.TemporaryDirectory(prefix="pl-") as name:  # a socket's path must be short
        home = Path(name)
        (home / "punchline.toml").write_text(toml)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PUNCHLINE_", "DISCORD_"))}
        with (
            session.log.open("ab") as log,
            subprocess.Popen(
                [sys.executable, "-P", "-m", "model_service", "serve", "--with-parent"],
                cwd=home,
                env={**env, "PUNCHLINE_HOME": str(home)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                in_child(session.log, "serve_client.wait_until_ready", home / "model.sock")
                yield Service(home / "model.sock", process.pid)
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
                process.kill()
