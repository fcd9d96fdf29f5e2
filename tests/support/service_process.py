"""The real service in a process of its own, over a real Unix socket, with tiny models."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0


@dataclass(frozen=True)
class ServiceProcess:
    """A running `python -m model_service serve`."""

    process: subprocess.Popen[bytes]
    home: Path
    log_path: Path

    @property
    def socket_path(self) -> Path:
        return self.home / "model.sock"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of the service; every call has a limit."""
        async with (
            aiohttp.UnixConnector(str(self.socket_path), limit=0) as connector,
            aiohttp.ClientSession(
                "http://service", connector=connector, timeout=aiohttp.ClientTimeout(total=30), **options
            ) as session,
        ):
            yield session

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT_S)


def model_table(name: str, source: Path | str, task: str = "generate", *, weights: str | None = None) -> str:
    """One `[[service.models]]` table. weights: "float32" where a test compares with transformers."""
    table = f'[[service.models]]\nname = "{name}"\nsource = {json.dumps(str(source))}\ntask = "{task}"\n'
    return table + (f'weights = "{weights}"\n' if weights else "")


@contextmanager
def running_service(
    models: str,
    service: str = "",
    *,
    ready: bool = True,
    prepare: Callable[[Path], None] = lambda home: None,
    port: int | None = None,
) -> Iterator[ServiceProcess]:
    """Start a service in a short temporary folder (socket paths are short); end it however the block ends.

    models: tables from `model_table`. service: more lines of the `[service]` table.
    ready: whether to wait until every model answers; else until the socket does.
    prepare: fills the home before the start. port: of 127.0.0.1, if `service` says TCP.
    """
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        home = Path(folder)
        prepare(home)
        (home / "punchline.toml").write_text(f'home = "{home}"\n[service]\n{service}\n{models}')
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "model_service", "serve"], cwd=home, env=environment(), stdout=log, stderr=log
            )
        started = ServiceProcess(process, home, home / "log")
        try:
            address = str(started.socket_path) if port is None else ("127.0.0.1", port)
            wait_for_answer(started, address, "/health/ready" if ready else "/health/live")
            yield started
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """This process's environment without settings of ours, and with this project importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PUNCHLINE_", "DISCORD_"))}
    root = Path(__file__).parents[2]
    return {**kept, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


Address = str | tuple[str, int]


def wait_for_answer(service: ServiceProcess, address: Address, path: str) -> None:
    """Wait until a GET of `path` is answered with 200; fails with the log if the process ends or time runs out."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and service.process.poll() is None:
        if get_status(address, path) == 200:
            return
        time.sleep(0.05)
    raise AssertionError(f"the service did not answer {path}:\n{service.log}")


def get_status(address: Address, path: str) -> int | None:
    """Return the status of one GET, or None if nobody answers."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect(address)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n".encode())
            return int(sock.recv(4096).split(b" ", 2)[1])
        except (OSError, IndexError):
            return None
