"""`punchline convert`: a checkpoint's pickled weights become safetensors, in a child process that may fail.

    SOURCE/pytorch_model.bin ── child: weights only, limited memory, time ──> .TARGET.converting/ ── rename ──> TARGET/

A pickle can hold a program. The child (models/pickles.py) lets torch unpickle tensors and nothing else, so that what is
more than weights is refused before it runs. Until the rename there is no target; when either process ends early,
whatever the reason, the other one clears away what was written. No torch here.
"""

import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from model_service.models.folder import PICKLES, CheckpointError, find_folder, pickles, read_config
from model_service.models.shape import shape_of

CHILD = "model_service.models.pickles"
STALL_S = 600.0  # a child that says nothing for so long is stopped
STOP_S = 10.0
COPIED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)


def convert_or_exit(source: str, target: Path) -> None:
    """Convert and show how far it is; exit with 1 and a sentence if it cannot be done."""
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _end)  # unwinds, so that nothing half-written stays
    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)
            convert(source, target, lambda done, total: bar.update(task, completed=done, total=total))
    except CheckpointError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    sys.stdout.write(f"{target} holds the model as safetensors. Use it: source = {json.dumps(str(target))}\n")


def convert(source: str, target: Path, progress: Callable[[int, int], None], child: str = CHILD) -> None:
    """Write the folder `target` from a folder or hub id that holds pytorch_model.bin. Raises CheckpointError.

    progress: called with the bytes that are written, and how many there will be.
    """
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} is there already. Name a folder that is not, or delete it first.")
    folder = find_folder(source, PICKLES)
    check_convertible(folder, source)
    with _aside(target) as (aside, lock):
        for name in COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, aside / name)
        _run_child(child, folder, aside, lock, progress)
        _sync(aside)
        aside.rename(target)
        _sync(target.parent)


def check_convertible(folder: Path, source: str) -> None:
    """Raise CheckpointError for a folder that does not hold pickled weights of a model that runs here."""
    if not pickles(folder):
        if any(folder.glob("*.safetensors")):
            raise CheckpointError(f"{source} holds safetensors already: load it as it is.")
        raise CheckpointError(f"{source} has no pytorch_model.bin: there is nothing to convert.")
    config = read_config(folder)
    try:
        shape_of(config)
    except KeyError as error:
        raise CheckpointError(f"The config.json of {source} lacks {error.args[0]}.") from error
    except ValueError as error:
        raise CheckpointError(f"{source} would not run here: {error}.") from error


@contextmanager
def _aside(target: Path) -> Iterator[tuple[Path, int]]:
    """Make a folder beside the target, and lock it until it is renamed or goes. Gives it and the lock's descriptor."""
    target = target.absolute()
    aside = target.with_name(f".{target.name}.converting")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        lock = os.open(aside, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(f"Another `punchline convert` is writing {target}.") from None
        try:
            for left in aside.iterdir():  # of one that was killed together with its child
                left.unlink()
            yield aside, lock
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(lock)


def _run_child(module: str, folder: Path, aside: Path, lock: int, progress: Callable[[int, int], None]) -> None:
    """Let a child write the weights. Raises CheckpointError with what it says, or how it ended."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(folder.absolute()), str(aside)],
            stdin=subprocess.PIPE,  # never written to: its end tells the child that we are gone
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(lock,),  # held until both are gone
            env={name: value for name, value in os.environ.items() if "TOKEN" not in name},
        )
        try:
            _listen(child, progress)
            if child.wait(STOP_S):
                raise CheckpointError(_how_it_ended(child.returncode, errors))
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(f"The conversion said nothing for {STALL_S:.0f} seconds and was stopped.") from error
        finally:
            child.kill()
            child.communicate()


def _listen(child: subprocess.Popen[bytes], progress: Callable[[int, int], None]) -> None:
    """Pass on what the child says until it has said all. Raises CheckpointError if that is that it cannot be done."""
    assert child.stdout is not None
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, lines), name="convert-child", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=STALL_S)
        except queue.Empty:
            raise subprocess.TimeoutExpired(child.args, STALL_S) from None
        if not line:
            return
        said: dict[str, Any] = json.loads(line)
        if "refused" in said:
            raise CheckpointError(said["refused"])
        progress(said["done_bytes"], said["total_bytes"])


def _read(pipe: IO[bytes], lines: "queue.SimpleQueue[bytes]") -> None:
    for line in pipe:
        lines.put(line)
    lines.put(b"")


def _how_it_ended(code: int, errors: IO[bytes]) -> str:
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    if code == -signal.SIGXCPU:
        return "The conversion took more time than a checkpoint of this size needs, and was stopped."
    if code == -signal.SIGKILL:
        return "The conversion was killed, perhaps because the machine has too little memory for it."
    return f"The conversion failed: {last or f'its process ended with exit code {code}'}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
