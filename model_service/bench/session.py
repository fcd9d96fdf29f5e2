"""One call of `punchline bench`: where its files are, what it says on stderr, and what runs under it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from model_service.bench.children import in_child
from model_service.bench.machine import Machine, describe
from model_service.bench.threads import cores

LOG = "engines.log"


@dataclass(frozen=True, slots=True)
class Session:
    """Files of this call. stdout belongs to the results: what else there is to say goes to stderr."""

    cache: Path  # converted weights
    device: str  # cpu or cuda:0
    progress: Progress
    failures: list[str]

    @property
    def log(self) -> Path:
        """What the engines print."""
        return self.cache / LOG

    @property
    def gpu(self) -> bool:
        """Whether a GPU is measured."""
        return self.device.startswith("cuda")

    def machine(self) -> Machine:
        """Look at the machine, and measure its memory now."""
        return describe(self.log, gpu=self.gpu)

    def say(self, line: str) -> None:
        """Print a line to stderr, above the progress bar."""
        self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def fail(self, line: str) -> None:
        """Say what could not be measured; the command goes on, and ends with exit code 1."""
        self.failures.append(line)
        self.say(line)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the progress bar off the terminal, for results that go to stdout."""
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()

    @contextmanager
    def bar(self, total: int) -> Iterator["Bar"]:
        """Show a progress bar for so many steps."""
        task = self.progress.add_task("", total=total)
        try:
            yield Bar(self.progress, task)
        finally:
            self.progress.remove_task(task)


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar of known length."""

    progress: Progress
    task: TaskID

    def now(self, what: str) -> None:
        """Say what runs now."""
        self.progress.update(self.task, description=what)

    def step(self) -> None:
        """One step is done."""
        self.progress.advance(self.task)


@contextmanager
def open_session(device: str, cache: Path | None) -> Iterator[Session]:
    """Make the folder for converted weights; a temporary one goes at the end, a named one stays."""
    folder = cache or Path(tempfile.mkdtemp(prefix="punchline-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
            session = Session(folder.absolute(), _device(device, folder / LOG), progress, [])
            if warning := busy(os.getloadavg()[0], cores()):
                session.say(warning)
            yield session
    finally:
        if cache is None:
            shutil.rmtree(folder, ignore_errors=True)


def busy(load: float, num_cores: int) -> str | None:
    """Return a warning if other programs need the cores: engines whose threads spin lose most by that."""
    if load <= num_cores / 2:
        return None
    return f"This machine is busy (load {load:.1f} on {num_cores} cores): the figures will not be fair."


def _device(device: str, log: Path) -> str:
    """Turn `auto` into the first GPU, or the CPU."""
    if device != "auto":
        return device
    return "cuda:0" if Path("/dev/nvidiactl").exists() and in_child(log, "bandwidth.gpu_is_there") else "cpu"
