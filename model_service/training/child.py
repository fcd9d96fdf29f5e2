"""Starts and stops the training child. No torch here.

The child has no pipes: its output goes to worker.log, its input is empty, so neither side can block the other.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Self

from model_service.config import TrainingSettings
from model_service.training.folder import JobFolder

STOP_LIMIT_S = 20.0  # from SIGTERM to SIGKILL: a step and a checkpoint
SECRETS = ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE")


class Child:
    """One running worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @classmethod
    async def start(
        cls, folder: JobFolder, models: Path, settings: TrainingSettings, checkpoint_every_s: float
    ) -> Self:
        """Start a worker on a job's folder; under torchrun where several processes are to share it."""
        threads = settings.threads or max(1, (os.cpu_count() or 2) // 2)
        several = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.processes), "-m")
        shares = settings.processes > 1 and can_be_shared(folder)
        if settings.processes > 1 and not shares:
            folder.add_event(
                f"One process trains this: training.processes ({settings.processes}) counts for jokes only."
            )
        command = [
            *(sys.executable, "-m", *(several if shares else ())),
            *("model_service.training.worker", str(folder.path)),
            *("--models", str(models)),
            *("--threads", str(threads), "--nice", str(settings.nice), "--parent", str(os.getpid())),
            *("--checkpoint-every-s", str(checkpoint_every_s), "--rest", str(settings.rest)),
        ]
        with folder.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(folder, threads),
            )
        return cls(process)

    async def wait(self) -> int:
        """Return the exit code, once it has ended; minus the signal's number when one killed it."""
        return await self._process.wait()

    async def stop(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Ask it to write a checkpoint and end; kill it when that takes too long. Returns the exit code."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                return await self.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass  # it ended by itself just now


def can_be_shared(folder: JobFolder) -> bool:
    """Whether several processes can train a job together: those on jokes can, classifiers and preferences cannot."""
    return bool(folder.job["request"]["method"] == "supervised")


def describe_exit(code: int) -> str:
    """Say in words how a process ended."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"


def _environment(folder: JobFolder, threads: int) -> dict[str, str]:
    """Ours, without secrets, offline, and with as many threads as it may use."""
    inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder.path / "cache"),
        "PYTHONUNBUFFERED": "1",
    }
