"""Stages in processes of their own (stage_child.py), on cores of their own.

    engine ──inlet──> process of stage 0 ──link──> process of stage 1 ──outlet──> engine
        └──────── control of 0 ──┘   └──────────────── control of 1 ──┘     parts to load, adapters; each answered

For CPUs: threads of one process would take turns in Python. Each process reads only its part of the files. The end of
any pipe ends the process that reads it, so none outlives the service, whatever ends that.
"""

import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from model_service.engine.flights import StageDied
from model_service.engine.pipeline import Pipeline
from model_service.engine.stage import Landed, Message
from model_service.engine.stage_wire import DropAdapter, HowFar, Part, ReadAdapter, packed
from model_service.models.lora import Adapter

log = logging.getLogger(__name__)

Count = Callable[[int], None]

CHILD = "model_service.engine.stage_child"

CLOSE_LIMIT_S = 30.0  # a stage ends with the step it is in


class ProcessStages:
    """A process for each part of a model. Blocks until all have loaded; raises CheckpointError if one cannot.

    count: called with how many bytes of the files were read since the last call.
    """

    def __init__(self, parts: Seq[Part], count: Count | None = None) -> None:
        ends = [_pair() for _ in range(len(parts) + 1)]  # (written, read) ends of inlet, links, outlet
        controls = [_pair() for _ in parts]
        self._inlet, self._outlet = ends[0][0], ends[-1][1]
        self._controls = [_Control(ours) for ours, _ in controls]
        self._processes = []
        for (_, receives), (sends, _), (_, theirs) in zip(ends, ends[1:], controls, strict=False):
            self._processes.append(_start(receives, sends, theirs))
        try:
            for control, part in zip(self._controls, parts, strict=True):
                control.send(part)
            self.size_bytes = sum(control.wait(count) for control in self._controls)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many there are."""
        return len(self._processes)

    @property
    def pids(self) -> list[int]:
        """The processes, in the order of their layers."""
        return [process.pid for process in self._processes]

    def send(self, message: Message) -> None:
        """Hand a message to the first one. Raises StageDied."""
        try:
            self._inlet.send(packed(message))
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Message:
        """Wait for what comes out of the last one. Raises StageDied."""
        try:
            message = self._outlet.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if message is None:
            raise self._died()
        assert isinstance(message, Landed)
        return message

    def read_adapter(self, key: int, name: str, folder: Path) -> Adapter:
        """Let each stage read an adapter, beside its steps; what comes back carries no numbers."""
        try:
            first, *_ = [control.ask(ReadAdapter(key, name, folder)) for control in self._controls]
        except BaseException:
            self.drop_adapter(key)
            raise
        assert isinstance(first, Adapter)
        return first

    def drop_adapter(self, key: int) -> None:
        """Let each stage forget an adapter."""
        for control in self._controls:
            control.forget(key)

    def close(self) -> None:
        """End them, after what is in flight."""
        for end in (self._inlet, self._outlet):
            end.close()
        for control in self._controls:
            control.close()
        for number, process in enumerate(self._processes):
            try:
                process.wait(CLOSE_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode:
                log.warning("The process of stage %d ended with %d.", number, process.returncode)

    def _died(self) -> StageDied:
        for number, process in enumerate(self._processes):
            if process.poll() is not None:
                return StageDied(f"The process of stage {number} has ended with {process.returncode}.")
        return StageDied("A stage's process has let go of its pipe.")


def split_over_processes(parts: Seq[Part], count: Count | None = None) -> Pipeline:
    """Run the parts of a model in a process each. Raises CheckpointError."""
    return Pipeline(ProcessStages(parts, count))


def share_cores(num_stages: int) -> list[tuple[int, ...]]:
    """Divide the cores this process may use among stages, as evenly as they go; too few are shared by all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < num_stages:
        return [()] * num_stages
    bounds = [len(cores) * i // num_stages for i in range(num_stages + 1)]
    return [tuple(cores[start:end]) for start, end in itertools.pairwise(bounds)]


class _Control:
    """The engine's end of a control pipe: one question at a time, from any thread."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._one_at_a_time = threading.Lock()
        self._forgotten: list[int] = []  # said with the next question: a finalizer must not wait for a lock

    def send(self, part: Part) -> None:
        """Say what to load; `wait` for it."""
        self._connection.send(part)

    def ask(self, question: object) -> Any:
        """Ask and wait. Raises what the stage raised, or StageDied."""
        with self._one_at_a_time:
            try:
                while self._forgotten:
                    self._connection.send(DropAdapter(self._forgotten.pop()))
                self._connection.send(question)
            except OSError as error:
                raise StageDied("A stage's process has ended.") from error
            return self.wait(None)

    def wait(self, count: Count | None) -> Any:
        """Wait for an answer, telling how far it is."""
        try:
            while isinstance(answer := self._connection.recv(), HowFar):
                if count:
                    count(answer.num_bytes)
        except (EOFError, OSError) as error:
            raise StageDied("A stage's process has ended.") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self, key: int) -> None:
        """Have an adapter dropped, sooner or later."""
        self._forgotten.append(key)

    def close(self) -> None:
        """Let the stage end."""
        self._connection.close()


def _pair() -> tuple["Connection[Any, Any]", "Connection[Any, Any]"]:
    """Return two ends of a pipe; both ways work, one is used."""
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), Connection(theirs.detach())


def _start(*ends: "Connection[Any, Any]") -> "subprocess.Popen[bytes]":
    """Start a stage's process with its ends of the pipes, which are closed here."""
    numbers = [end.fileno() for end in ends]
    argv = [sys.executable, "-m", CHILD, *map(str, numbers)]
    process = subprocess.Popen(argv, pass_fds=numbers, stdin=subprocess.DEVNULL)
    for end in ends:
        end.close()
    return process
