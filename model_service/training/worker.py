"""The child process of a training job: `python -m model_service.training.worker <job folder>`.

On several devices: `torchrun --nproc-per-node N -m model_service.training.worker <job folder> --models <folder>`.

Ends with DONE (result.json is written), INTERRUPTED (asked to stop, or the service is gone: a checkpoint is
written and the job can go on), or REFUSED (failure.json says why; a restart would meet the same). Anything
else is a crash. It talks through files alone, so nothing it says can block it.
"""

import argparse
import errno
import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_service.training import registry
from model_service.training.folder import JobFolder
from model_service.training.yielding import Courtesy

log = logging.getLogger(__name__)

DONE, REFUSED, INTERRUPTED = 0, 65, 75
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL = (
    "The disk is full, or a file grew beyond what is allowed here. Free some space and start the job again; the old"
    " model is untouched."
)
TOO_LITTLE_MEMORY = (
    "There is too little memory to train this model here. Use the adapter lora, choose a smaller model, or free memory"
    " on the device; the old model is untouched."
)
RANK = "RANK"  # torchrun sets it: which of the processes of a job this one is
LOCK_LIMIT_S = 60.0  # a predecessor that lost its service notices within a step
ORPHAN_LOOK_S, ORPHAN_LIMIT_S = 1.0, 45.0  # it lets go of the lock before its successor gives up


def main(arguments: list[str] | None = None) -> int:
    """Run one job; returns the exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the service's to handle
    os.nice(options.nice)
    folder = JobFolder(options.folder)
    is_orphan = _orphaned(options.parent)
    ended = threading.Event()
    threading.Thread(target=_end_if_stuck, args=(is_orphan, ended), name="orphan-watch", daemon=True).start()
    try:
        with folder.lock.open("w") as lock:
            if os.environ.get(RANK, "0") == "0":
                _take(lock.fileno())
            return _run(folder, options, is_orphan)
    finally:
        ended.set()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="model_service.training.worker", description="Train one job in its folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="where the finished model goes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the service; stop when it is gone")
    parser.add_argument("--checkpoint-every-s", type=float, default=30.0)
    parser.add_argument("--rest", type=float, default=0.0, help="after each step while people are answered, in steps")
    return parser.parse_args(arguments)


def _take(descriptor: int) -> None:
    """Hold the job's folder alone. A child of a killed service may still be about to leave it."""
    deadline = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _run(folder: JobFolder, options: argparse.Namespace, is_orphan: Callable[[], bool]) -> int:
    import torch  # seconds of import, during which SIGTERM simply ends the process: there is nothing to save yet

    from model_service.training.classify import ClassifierTraining
    from model_service.training.finetune import Finetune
    from model_service.training.heap import keep_freed_memory
    from model_service.training.loop import Interrupted, TrainingFailed
    from model_service.training.out_of_memory import is_out_of_memory
    from model_service.training.parallel import Group
    from model_service.training.preference_training import PreferenceTraining

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    try:
        others = {"classify": ClassifierTraining, "dpo": PreferenceTraining}
        training: Any = others.get(folder.job["request"].get("method"), Finetune)
        more = {}
        if training is Finetune:
            more["group"] = Group.from_environment()
        elif os.environ.get(RANK, "0") != "0":
            return DONE  # these methods are the first process's alone
        check = Courtesy(folder.path, options.rest, _checker(is_orphan))
        run = training(folder, options.models, check=check, checkpoint_every_s=options.checkpoint_every_s, **more)
        run.run()
    except Interrupted:
        log.info("interrupted; a checkpoint is written")
        return INTERRUPTED
    except TrainingFailed as error:
        return _refuse(folder, str(error), error.code)
    except Exception as error:
        if is_disk_full(error):
            _let_go_of_halves(folder, options.models)
            return _refuse(folder, DISK_FULL, "disk_full")
        if is_out_of_memory(error):
            return _refuse(folder, TOO_LITTLE_MEMORY, "out_of_memory")
        raise
    return DONE


def is_disk_full(error: BaseException) -> bool:
    """Whether nothing more could be written: no space, a quota, a limit. Each library wraps it in its own way."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(f"os error {number})" in str(error) or os.strerror(number) in str(error) for number in FULL)


def _let_go_of_halves(folder: JobFolder, models: Path) -> None:
    """Delete what could not be written whole, so that there is room to say so."""
    for half in folder.checkpoints.glob("tmp-*"):
        shutil.rmtree(half) if half.is_dir() else half.unlink()
    registry.remove_made_by(models, folder.id)


def _refuse(folder: JobFolder, message: str, code: str) -> int:
    """Leave the reason where the service finds it."""
    log.info("failed: %s", message)
    folder.write_failure(message, code)
    return REFUSED


def _orphaned(service: int) -> Callable[[], bool]:
    """Return a function that says whether the service, or the torchrun between it and this process, has died."""
    if RANK not in os.environ:
        return lambda: os.getppid() != service
    torchrun = os.getppid()

    def is_orphan() -> bool:
        try:
            os.kill(service, 0)  # it is not our parent; torchrun would go on without it
        except (ProcessLookupError, PermissionError, OverflowError):
            return True
        return os.getppid() != torchrun

    return is_orphan


def _end_if_stuck(is_orphan: Callable[[], bool], ended: threading.Event) -> None:
    """Watch on a thread: an orphan that waits for a process that is gone would never come to its next check."""
    while not ended.wait(ORPHAN_LOOK_S):
        if is_orphan():
            if not ended.wait(ORPHAN_LIMIT_S):  # it normally writes a checkpoint and ends within this
                os.kill(os.getpid(), signal.SIGKILL)
            return


def _checker(is_orphan: Callable[[], bool]) -> Callable[[], None]:
    """Return a function that raises Interrupted after a SIGTERM, or when the service has died without one."""
    from model_service.training.loop import Interrupted

    stop_asked = False

    def stop(*_: object) -> None:
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGTERM, stop)

    def check() -> None:
        if stop_asked or is_orphan():
            raise Interrupted

    return check


if __name__ == "__main__":
    sys.exit(main())
