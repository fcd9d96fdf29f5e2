"""Keeps child processes running: starts them, copies their log, restarts what dies, ends them in order.

    start ── dies ── wait 0.5 s, 1 s, 2 s … 30 s ── start again        (a minute of health: back to 0.5 s)
      └───── exits with 2: its settings or token are bad; it has said why, and nothing is restarted

A child runs in a session of its own, so Ctrl-C in the terminal reaches only us. Its stdin is a pipe that
nobody writes to: when we are gone, even by kill -9, it sees the end of it (`model_service.lifeline`).
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REFUSED = 2  # the exit code of a process that cannot work with its settings

_RECORD = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and the whole environment it gets."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    first_wait_s: float = 0.5  # before the first restart; doubles with each
    longest_wait_s: float = 30.0
    healthy_s: float = 60.0  # who lived this long starts over at first_wait_s
    stop_s: float = 25.0  # from SIGTERM to SIGKILL; a training run writes a checkpoint first


class ChildLog:
    """Writes a child's output to a file, and what a person should see to the terminal.

    Shown: warnings and worse, and everything that is not a log record (tracebacks, sentences before an
    exit). At `limit_bytes` the file moves to `….1` and a new one starts.
    """

    def __init__(self, path: Path, show: Callable[[str], None], *, all_lines: bool, limit_bytes: int = 10**7) -> None:
        self.path, self._show, self._all_lines, self._limit_bytes = path, show, all_lines, limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._rest = b""

    def write(self, chunk: bytes) -> None:
        """Take output as it comes, in pieces of any size."""
        self._file.write(chunk)
        if self._file.tell() > self._limit_bytes:
            self._file.close()
            self.path.replace(self.path.with_suffix(".log.1"))
            self._file = self.path.open("ab", buffering=0)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            record = _RECORD.match(line)
            if self._all_lines or record is None or record[1] not in (b"DEBUG", b"INFO"):
                self._show(line.decode("utf-8", "replace"))

    def end_line(self) -> None:
        """Finish a line that the child left unfinished."""
        if self._rest:
            self.write(b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Keeper:
    """Keeps one program running; `run` ends only when the program refuses, or when it is cancelled."""

    def __init__(self, program: Program, log: ChildLog, tell: Callable[[str], None], limits: Limits) -> None:
        self._program, self._log, self._tell, self._limits = program, log, tell, limits
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Start the program, and again each time it ends; returns when it exits with `REFUSED`."""
        loop = asyncio.get_running_loop()
        wait_s = self._limits.first_wait_s
        try:
            while True:
                started = loop.time()
                code = await self._run_once()
                if code == REFUSED:
                    return
                if loop.time() - started >= self._limits.healthy_s:
                    wait_s = self._limits.first_wait_s
                self._tell(
                    f"The {self._program.name} {_how_it_ended(code)}. "
                    f"Starting it again in {wait_s:g} s. Its log: {self._log.path}"
                )
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, self._limits.longest_wait_s)
        finally:
            self._log.close()

    def kill(self) -> None:
        """End the process group at once, without a chance to clean up."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run_once(self) -> int:
        lifeline_end, lifeline = os.pipe()
        output, output_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._program.argv,
                stdin=lifeline_end,
                stdout=output_end,
                stderr=output_end,
                env=dict(self._program.env),
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            os.close(lifeline)
            raise
        finally:
            os.close(lifeline_end)
            os.close(output_end)
        copying = asyncio.create_task(self._copy(output), name=f"{self._program.name}-log")
        try:
            return await self._process.wait()
        finally:
            await self._end(self._process)
            os.close(lifeline)
            await asyncio.wait([copying], timeout=1.0)  # its own children may hold the pipe open
            copying.cancel()
            await asyncio.wait([copying])

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Stop what still runs: SIGTERM, then SIGKILL; first the process, then what it left in its session."""
        try:
            async with asyncio.timeout(self._limits.stop_s):
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.terminate()
                    await process.wait()
                await self._end_group(process.pid)
        except TimeoutError:
            self._tell(f"The {self._program.name} did not stop within {self._limits.stop_s:g} s; killing it.")
            self.kill()
            await process.wait()

    async def _end_group(self, group: int) -> None:
        """Ask the dead process's own children to end, such as a training run, and wait until they have."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
            while True:
                await asyncio.sleep(0.02)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-group, os.WNOHANG)  # noqa: ASYNC222 - as PID 1 of a container we inherit them
                os.killpg(group, 0)

    async def _copy(self, output: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", buffering=0)
        )
        try:
            while chunk := await reader.read(65536):
                self._log.write(chunk)
        finally:
            self._log.end_line()
            transport.close()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


async def keep_running(keepers: list[Keeper], stop: asyncio.Event, kill: asyncio.Event) -> int:
    """Run until `stop` is set (returns 0) or a program refuses (returns 2); all have ended then.

    `kill` set while they are ending cuts that short.
    """
    tasks = [asyncio.create_task(keeper.run(), name=f"keeper-{index}") for index, keeper in enumerate(keepers)]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    killing = asyncio.create_task(_kill_when(kill, keepers), name="kill")
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.wait([stopping, *tasks])
        killing.cancel()
        await asyncio.wait([killing])
    for task in done - {stopping}:
        task.result()  # a keeper's own failure, such as a program that is not there
    return 0 if stopping in done else REFUSED


async def _kill_when(kill: asyncio.Event, keepers: list[Keeper]) -> None:
    await kill.wait()
    for keeper in keepers:
        keeper.kill()
