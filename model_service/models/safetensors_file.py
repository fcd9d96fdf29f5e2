"""Where the tensors of a safetensors file are, and how such a file is written: both without holding it in memory.

    8 bytes: n ── n bytes of JSON: {name: {dtype, shape, data_offsets}} ── the tensors' bytes, one after the other

No torch here. What a file claims is checked before a byte of it is read.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from model_service.models.folder import CheckpointError

ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
ITEM_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
ALIGNMENT = 8  # of the first tensor, so that a mapped file can be read in place


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file: its bytes are from `start` to `end`, row by row, little endian."""

    path: Path
    name: str  # in the file
    dtype: str  # safetensors' word: F32, F16, BF16, …
    sizes: tuple[int, ...]
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """What it takes in the file."""
        return self.end - self.start


def read_entries(path: Path) -> list[Entry]:
    """Read what a file holds. Raises CheckpointError for one that is cut short or broken."""
    try:
        with path.open("rb") as file:
            return _entries(path, file, path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error


def _entries(path: Path, file: IO[bytes], file_bytes: int) -> list[Entry]:
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} is no safetensors file, or its beginning is broken.")
    if 8 + length > file_bytes:
        raise CheckpointError(_cut_short(path, file_bytes, 8 + length))
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = [_entry(path, name, found, 8 + length) for name, found in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or its beginning is broken: {error}") from error
    expected = max((entry.end for entry in entries), default=8 + length)
    if expected > file_bytes:
        raise CheckpointError(_cut_short(path, file_bytes, expected))
    return entries


def _cut_short(path: Path, file_bytes: int, expected: int) -> str:
    return f"{path} is cut short: it has {file_bytes:,} bytes of at least {expected:,}. Download or copy it again."


def _entry(path: Path, name: str, found: Mapping[str, object], base: int) -> Entry:
    dtype, sizes, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name} has the number format {dtype!r}")
    if not isinstance(sizes, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"{name} has no shape or no place")
    if not all(isinstance(n, int) and n >= 0 for n in (*sizes, *offsets)):
        raise ValueError(f"{name} has the shape {sizes} at {offsets}")
    start, end = offsets
    if end - start != math.prod(sizes) * ITEM_BYTES[dtype]:
        raise ValueError(f"{name} has {end - start} bytes for the shape {sizes} in {dtype}")
    return Entry(path, name, dtype, tuple(sizes), base + start, base + end)


def write_header(file: IO[bytes], tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> int:
    """Begin a file for tensors (name, dtype, sizes), whose bytes follow in this order; return how many those are."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    at = 0
    for name, dtype, sizes in tensors:
        end = at + math.prod(sizes) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(sizes), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(struct.pack("<Q", len(text)) + text)
    return at
