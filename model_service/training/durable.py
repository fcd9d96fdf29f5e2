"""Writes files and folders that a reader, or the next start after a power cut, sees whole or not at all.

live.tmp ─ write, fsync ─ rename over live ─ fsync of the folder
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace `path` by `text` in one step. Without `durable` it is atomic but may be lost by a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` by `value` as JSON; NaN is refused, as JSON has none."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False), durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`, or None where the file is not there (yet)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    assert isinstance(value, dict), path
    return value


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(aside: Path, final: Path) -> None:
    """Move a finished file or folder to its name, contents first on the disk. An older one of that name is replaced."""
    _sync_tree(aside)
    if final.is_dir():
        shutil.rmtree(final)
    aside.replace(final)
    sync_folder(final.parent)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for inner in path.iterdir():
            _sync_tree(inner)
        sync_folder(path)
    else:
        with path.open("rb") as file:
            os.fsync(file.fileno())
