"""What reading checkpoints takes of the host's memory. `python -m tests.models.peak_memory TINY FOLDER=float32 …`

Each case runs in a process of its own, forked when all is imported: its peak (VmHWM) less what it had before is what
reading took, and what it has afterwards less that is what stays.
"""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from model_service.engine import loading
from model_service.engine.loading import forward_for
from model_service.models.decoder import decoder
from model_service.models.loading import DTYPES, open_checkpoint
from model_service.models.stored import CONV1D, short_name


def main(tiny: Path, *cases: str) -> None:
    """Measure cases, `FOLDER=WAY`. tiny: a checkpoint that is read before, for what the first reading sets up."""
    for case in cases:
        folder, _, way = case.rpartition("=")
        sys.stdout.flush()
        if child := os.fork():
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        else:
            print(json.dumps({"way": way, **measured(WAYS[way], tiny, Path(folder))}), flush=True)
            os._exit(0)


def measured(read: Callable[[Path], object], tiny: Path, folder: Path) -> dict[str, int]:
    """Return the bytes that reading took at its peak, those that stayed, and those the weights say they take."""
    read(tiny)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    kept = read(folder)
    peak = status("VmHWM")
    gc.collect()
    return {"peak": peak - before, "stays": status("VmRSS") - before, "says": getattr(kept, "size_bytes", 0)}


def status(name: str) -> int:
    """Return a number of bytes that the system keeps for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def format_of(weights: str) -> Callable[[Path], object]:
    return lambda folder: forward_for(open_checkpoint(str(folder)), weights, "cpu", 1)


def int8_in_torch(folder: Path) -> object:
    loading.int8_in_torch = lambda shape: True  # in this process alone
    return format_of("int8")(folder)


def second_half(folder: Path) -> object:
    opened = open_checkpoint(str(folder))
    return opened.read("float32", layers=range(opened.shape.n_layer // 2, opened.shape.n_layer), to_run=True)


def elsewhere(folder: Path) -> object:
    """To a device that is not the CPU: what a GPU costs the host."""
    return open_checkpoint(str(folder)).read("float16", "meta")


def to_gpu(folder: Path) -> object:
    return open_checkpoint(str(folder)).read("float16", "cuda:0")


def all_at_once(folder: Path) -> object:
    """The way of other programs, and of this one before: to see that the measurement notices it."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            short = short_name(name)
            tensors[short] = tensor.to(DTYPES["bfloat16"])
            if short.endswith(CONV1D):
                tensors[short] = tensors[short].T.contiguous()
    return decoder(open_checkpoint(str(folder)).shape, tensors)


WAYS = {
    **{weights: format_of(weights) for weights in ("float32", "bfloat16", "int8")},
    "int8 in torch": int8_in_torch,
    "second half": second_half,
    "elsewhere": elsewhere,
    "gpu": to_gpu,  # of machines that have one; it is first touched behind the fork
    "all at once": all_at_once,
}

if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1]), *sys.argv[2:])
