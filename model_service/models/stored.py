"""The tensors of a checkpoint while they are still on disk: each is read when it is asked for, ready for use.

    file ── a few MiB at a time ──> device, number format, (out, in)          never a whole file, never twice

Reading goes through a small buffer and no mapping of the file, so what it takes of the host's memory is that buffer,
besides the tensors themselves where those are on the CPU. A tensor that is still in use is not read again: one that
serves as embedding and as head is one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from model_service.models.folder import CheckpointError, convert_hint, pickles, read_json
from model_service.models.layout import Sizes, needed, tensor_sizes
from model_service.models.room import room
from model_service.models.safetensors_file import Entry, read_entries
from model_service.models.shape import Shape

Progress = Callable[[int, int], None]  # done_bytes, total_bytes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # stored (in, out)
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old checkpoints carry
PIECE_BYTES = 4 << 20


class StoredFiles:
    """Which tensor is where in a folder, over all its shards. Reads the headers only. Raises CheckpointError."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        self.index = folder / (SINGLE if (folder / SINGLE).exists() else INDEX)
        self.entries: dict[str, Entry] = {}  # by transformers' names, without the `transformer.` prefix
        for path in _shards(folder):
            for entry in read_entries(path):
                name = short_name(entry.name)
                if not name.endswith(BUFFERS):
                    self.entries[name] = entry
        self._sizes = tensor_sizes(shape)

    def check(self, layers: range) -> None:
        """Raise CheckpointError if something that these layers need is missing, or is not as config.json says."""
        for name, sizes in self._sizes.items():
            if not needed(name, layers, self.shape):
                continue
            entry = self.entries.get(name)
            if entry is None:
                if not self._dispensable(name):
                    raise CheckpointError(f"{self.index} lacks {name}, which its config.json asks for.")
                continue
            self._check_entry(name, entry, sizes)

    def size_bytes(self, layers: range) -> int:
        """How many bytes of the files these layers need."""
        return sum(e.size_bytes for name, e in self.entries.items() if needed(name, layers, self.shape))

    def _dispensable(self, name: str) -> bool:
        """Say whether a model does without: a tied head is the embedding, and a classifier has another one."""
        return name.startswith("lm_head.") and (self.shape.tied or "score.weight" in self.entries)

    @staticmethod
    def _check_entry(name: str, entry: Entry, sizes: Sizes) -> None:
        stored = entry.sizes[::-1] if name.endswith(CONV1D) else entry.sizes
        if stored != sizes:
            expected = sizes[::-1] if name.endswith(CONV1D) else sizes
            found = f"{entry.path}: {entry.name} has the shape {list(entry.sizes)}"
            raise CheckpointError(f"{found}, but by config.json it is {list(expected)}.")
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{entry.path}: {entry.name} is stored as {entry.dtype}; {', '.join(FLOATS)} can be read."
            )


class Reading(Mapping[str, Tensor]):
    """A checkpoint's tensors in one number format on one device, each read when it is asked for."""

    def __init__(
        self,
        files: StoredFiles,
        dtype: torch.dtype,
        device: torch.device,
        count: Callable[[int], None] | None = None,
    ) -> None:
        """count: called with how many bytes of the files were read since the last call."""
        self._files, self._dtype, self._device, self._count = files, dtype, device, count
        self._in_use: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        self._buffer = torch.empty(PIECE_BYTES, dtype=torch.uint8)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor; linears' matrices are (out, in). Raises KeyError, and CheckpointError if the disk fails."""
        tensor = self._in_use.get(name)
        if tensor is None:
            tensor = self._in_use[name] = self._read(self._files.entries[name], turned=name.endswith(CONV1D))
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._files.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._files.entries)

    def __len__(self) -> int:
        return len(self._files.entries)

    def rows(self, name: str) -> Iterator[Tensor]:
        """Return a matrix in pieces of a few MiB, in order; each is good until the next. Raises like []."""
        entry = self._files.entries[name]
        with _opened(entry) as file:
            for _, piece in self._pieces(entry, file):
                yield piece.to(self._device, self._dtype)

    def _read(self, entry: Entry, *, turned: bool) -> Tensor:
        sizes = entry.sizes[::-1] if turned else entry.sizes
        tensor = room(sizes, self._dtype, self._device)
        rows = tensor.T if turned else tensor
        with _opened(entry) as file:
            for start, piece in self._pieces(entry, file):
                rows[start : start + len(piece)] = piece.to(self._device)  # cast, and turned, where it will be
        return tensor

    def _pieces(self, entry: Entry, file: BufferedReader) -> Iterator[tuple[int, Tensor]]:
        """Read some rows at a time into the buffer; give the first one's number with them, as they are stored."""
        num_rows, row_bytes = entry.sizes[0], entry.size_bytes // entry.sizes[0]
        at_once = max(1, PIECE_BYTES // row_bytes)
        if row_bytes > len(self._buffer):
            self._buffer = torch.empty(row_bytes, dtype=torch.uint8)
        for start in range(0, num_rows, at_once):
            count = min(at_once, num_rows - start)
            piece = self._buffer[: count * row_bytes].view(FLOATS[entry.dtype]).view(count, *entry.sizes[1:])
            if _filled(piece, file, entry) != piece.nbytes:
                raise CheckpointError(f"{entry.path} ended in the middle of {entry.name}. Download or copy it again.")
            if self._count is not None:
                self._count(piece.nbytes)
            yield start, piece


def short_name(name: str) -> str:
    """Return a tensor's name without the prefix that language models put before the names of their inner model."""
    return name.removeprefix("transformer.")


def counted(progress: Progress | None, total_bytes: int) -> Callable[[int], None]:
    """Return what counts bytes as they are read and says how many of how many."""
    done_bytes = 0

    def read(count: int) -> None:
        nonlocal done_bytes
        done_bytes += count
        if progress is not None:
            progress(min(done_bytes, total_bytes), total_bytes)

    return read


def _filled(piece: Tensor, file: BufferedReader, entry: Entry) -> int:
    try:
        return file.readinto(piece.view(torch.uint8).numpy().data)
    except OSError as error:
        raise CheckpointError(f"{entry.path} could not be read: {error}") from error


def _opened(entry: Entry) -> BufferedReader:
    try:
        file = entry.path.open("rb")
        file.seek(entry.start)
    except OSError as error:
        raise CheckpointError(f"{entry.path} could not be read: {error}") from error
    return file


def _shards(folder: Path) -> list[Path]:
    """Return a folder's safetensors files. Raises CheckpointError for what is not there."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        if bins := pickles(folder):
            raise CheckpointError(f"{folder} has {', '.join(p.name for p in bins)}, but {convert_hint(folder)}")
        raise CheckpointError(f"{folder} has no {SINGLE} and no {INDEX}: it is no checkpoint, or half a download.")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{folder / INDEX} has no weight_map that says which tensor is in which file.")
    for name in (names := sorted(set(places.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX} names {json.dumps(name)}, which is no file of its folder.")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}, which {INDEX} names: half a download. Fetch the rest.")
    return [folder / name for name in names]
