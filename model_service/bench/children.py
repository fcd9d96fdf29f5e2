"""Child processes of the bench: each engine, conversion and measurement has one, so that none disturbs another.

What a library prints goes to the bench's log file: stdout belongs to the results.
"""

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from model_service.bench.contestants import Entry
from model_service.bench.task import Contestant, Task

STOP_S = 10.0
_spawn = multiprocessing.get_context("spawn")


class ChildFailed(Exception):
    """A child process ended early, or said why it cannot go on."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What an engine says once it has loaded."""

    weights: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task that was done: the seconds it took, and the new tokens of each prompt."""

    seconds: float
    token_ids: list[list[int]]


class _Child:
    """A process at the end of a pipe."""

    def __init__(self, target: Callable[..., None], log: Path, *args: object) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=target, args=(theirs, log, *args), daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> Any:
        """Wait for an answer. Raises ChildFailed if the child failed or is gone."""
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(STOP_S)
            raise ChildFailed(f"its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, ChildFailed):
            raise answer
        return answer

    def send(self, message: object) -> None:
        """Ask for something."""
        with suppress(BrokenPipeError):  # receive says what happened
            self._pipe.send(message)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def in_child(log: Path, function: str, *args: object) -> Any:
    """Call a function of this package in a fresh process and return what it returns.

    function: `module.name`, because to import it here would load torch here. Raises ChildFailed with its error.
    """
    child = _Child(_call, log, function, args)
    try:
        return child.receive()
    finally:
        child.close()


class Worker:
    """An engine in its own process. It sleeps between tasks."""

    def __init__(self, entry: Entry, load: Callable[[], Contestant], log: Path) -> None:
        """Start loading; `load` is called in the new process. Raises ChildFailed if it cannot be loaded."""
        self.entry = entry
        self._child = _Child(_work, log, load)
        try:
            self.ready: Ready = self._child.receive()
        except ChildFailed:
            self._child.close()
            raise

    def prepare(self, task: Task) -> None:
        """Get it ready for tasks of this size, and warm."""
        self._child.send(("prepare", task))
        self._child.receive()

    def run(self, task: Task) -> Outcome:
        """Have a task done."""
        self._child.send(("run", task))
        outcome: Outcome = self._child.receive()
        return outcome

    def close(self) -> None:
        """End its process."""
        self._child.close()


def _to_log(log: Path) -> None:
    """Send what is printed, by whatever library, to the log file."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _call(pipe: Connection, log: Path, function: str, args: tuple[object, ...]) -> None:
    _to_log(log)
    module, _, name = function.rpartition(".")
    try:
        pipe.send(getattr(importlib.import_module(f"model_service.bench.{module}"), name)(*args))
    except Exception as error:
        pipe.send(_failure(error))


def _work(pipe: Connection, log: Path, load: Callable[[], Contestant]) -> None:
    """Serve tasks until the pipe closes; one that fails is answered with its error."""
    _to_log(log)
    try:
        contestant = load()
    except Exception as error:
        pipe.send(_failure(error))
        return
    pipe.send(Ready(contestant.weights))
    while True:
        try:
            command, task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_answer(contestant, command, task))
        except Exception as error:
            pipe.send(_failure(error))


def _answer(contestant: Contestant, command: str, task: Task) -> Outcome | None:
    if command == "prepare":
        contestant.prepare(task)
        contestant.run(task)
        return None
    began = time.perf_counter()
    made = contestant.run(task)
    seconds = time.perf_counter() - began
    return Outcome(seconds, [[int(t) for t in ids] for ids in made])


def _failure(error: Exception) -> ChildFailed:
    import traceback

    traceback.print_exception(error)
    lines = str(error).strip().splitlines()
    return ChildFailed(lines[0] if lines else type(error).__name__)
