"""The child process of `punchline convert`: `python -m model_service.models.pickles FOLDER ASIDE`.

Pickled tensors in, safetensors out, some MiB at a time, from a mapped file where its format allows that. torch
unpickles with `weights_only`, so that a program in the file is refused and not run. Memory and time are limited to what
a checkpoint of this size needs. Says on stdout, a JSON object a line, how far it is or why it cannot be done.
"""

import json
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_service.models.folder import CheckpointError, pickles, read_config, read_json
from model_service.models.layout import tensor_sizes
from model_service.models.safetensors_file import write_header
from model_service.models.shape import Shape, shape_of
from model_service.models.stored import BUFFERS, FLOATS, INDEX, SINGLE, StoredFiles, short_name

PICKLE_INDEX = "pytorch_model.bin.index.json"
WORDS = {dtype: word for word, dtype in FLOATS.items()}
PIECE_BYTES = 16 << 20
ROOM_BYTES = 3 << 30  # for torch itself
ROOM_S, BYTES_PER_S = 120, 10e6  # of processor time


def main(folder: Path, aside: Path) -> None:
    """Write the safetensors of `folder` into `aside`, which goes if the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent decides
    threading.Thread(target=_clear_when_alone, args=(aside,), name="lifeline", daemon=True).start()
    try:
        paths = shards(folder)
        limit(sum(path.stat().st_size for path in paths))
        shape = shape_of(read_config(folder))
        write_all(plan([weights_of(path) for path in paths], shape), aside)
        StoredFiles(aside, shape).check(range(shape.n_layer))  # the very files that will be loaded
    except CheckpointError as error:
        say(refused=str(error))
    except MemoryError:
        say(refused=f"{folder} takes more memory than the weights of its files would: it was stopped.")


def limit(total_bytes: int) -> None:
    """Limit this process to the memory and time that weights of this size need."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for what, most in (
        (resource.RLIMIT_DATA, 2 * total_bytes + ROOM_BYTES),
        (resource.RLIMIT_CPU, ROOM_S + int(total_bytes / BYTES_PER_S)),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def shards(folder: Path) -> list[Path]:
    """Return the files that hold the weights, in order. Raises CheckpointError for half a download."""
    if (folder / "pytorch_model.bin").is_file() or not (folder / PICKLE_INDEX).is_file():
        found = pickles(folder)
        return found[:1] if found and found[0].name == "pytorch_model.bin" else found
    places = read_json(folder / PICKLE_INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{folder / PICKLE_INDEX} has no weight_map that says which tensor is in which file.")
    for name in (names := sorted(set(places.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / PICKLE_INDEX} names {json.dumps(name)}, which is no file of its folder.")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}, which {PICKLE_INDEX} names: half a download.")
    return [folder / name for name in names]


def weights_of(path: Path) -> dict[str, Tensor]:
    """Unpickle tensors and nothing else; from a mapping of the file, unless it is of the format before 2020.

    Raises CheckpointError, before anything of it has run, for a file that holds more than weights.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are old; what cannot be read raises
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except MemoryError:
        raise
    except Exception as error:  # the ways in which a broken file fails are torch's, zipfile's and pickle's
        if "allocate memory" in str(error):
            raise MemoryError from error
        raise CheckpointError(f"{path} is broken or cut short: {_first_line(error)}. Download it again.") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise CheckpointError(f"{path} holds something other than tensors by name: it is no checkpoint of a model.")
    for name, tensor in found.items():
        _check_tensor(path, name, tensor)
    return dict(found)


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    if names := re.findall(r"(?:GLOBAL|function|class|global) `?([\w.]+\.[\w.]+)", str(error)):
        return (
            f"{path} was refused: besides weights it holds a program ({names[0]}), which could do anything on this"
            " machine. Nothing of it was run. Do not load it elsewhere; get the model from who made it, as safetensors."
        )
    return f"{path} was refused: it is no pickle of weights alone, and nothing of it was run ({_first_line(error)})."


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{path}: {name} is no plain tensor.")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {name} claims the shape {list(tensor.shape)}, for which it has too few numbers."
        )


def plan(files: list[dict[str, Tensor]], shape: Shape) -> list[dict[str, Tensor]]:
    """Return what to write in each file: today's names, without causal masks and without a tied head's second copy.

    Raises CheckpointError for numbers that are no floats.
    """
    known = tensor_sizes(shape)
    embedding = next((t for file in files for name, t in file.items() if short_name(name) == "wte.weight"), None)
    planned: list[dict[str, Tensor]] = []
    for file in files:
        kept: dict[str, Tensor] = {}
        for name, tensor in file.items():
            short = short_name(name)
            if short.endswith(BUFFERS):
                continue
            if short == "lm_head.weight" and shape.tied and embedding is not None and _same(tensor, embedding):
                continue
            if tensor.dtype not in WORDS:
                raise CheckpointError(f"{name} holds {tensor.dtype}; only floats are weights.")
            kept[short if short not in known or short.startswith("lm_head.") else f"transformer.{short}"] = tensor
        planned.append(kept)
    return planned


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def write_all(files: list[dict[str, Tensor]], aside: Path) -> None:
    """Write the files, and an index if there are several."""
    names = [SINGLE] if len(files) == 1 else [f"model-{i:05}-of-{len(files):05}.safetensors" for i in _from_1(files)]
    total_bytes = sum(t.nbytes for file in files for t in file.values())
    done_bytes = 0
    for name, tensors in zip(names, files, strict=True):
        with (aside / name).open("wb") as out:
            write_header(out, [(n, WORDS[t.dtype], tuple(t.shape)) for n, t in tensors.items()])
            for tensor in tensors.values():
                for piece in _pieces(tensor):
                    done_bytes += out.write(piece)
                    say(done_bytes=done_bytes, total_bytes=total_bytes)
            out.flush()
            os.fsync(out.fileno())
    if len(files) > 1:
        places = {n: name for name, tensors in zip(names, files, strict=True) for n in tensors}
        index = {"metadata": {"total_size": total_bytes}, "weight_map": places}
        (aside / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _from_1(files: list[dict[str, Tensor]]) -> range:
    return range(1, len(files) + 1)


def _pieces(tensor: Tensor) -> Iterator[Any]:
    """Give a tensor's bytes, row by row, some MiB at a time."""
    flat = tensor.contiguous().reshape(-1)
    at_once = PIECE_BYTES // flat.itemsize
    for start in range(0, len(flat), at_once):
        yield flat[start : start + at_once].view(torch.uint8).numpy()


def say(**words: object) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _clear_when_alone(aside: Path) -> None:
    while os.read(0, 1024):
        pass
    while aside.exists():  # the other thread may still be writing
        shutil.rmtree(aside, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
