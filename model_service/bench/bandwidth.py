"""Measures how fast this machine reads memory: what a decode step cannot beat. Runs in a child process."""

import time
from collections.abc import Callable

import torch

SIDE = 1 << 14  # a float32 matrix of 1 GiB, far beyond any cache
REPEATS = 8


def read_gb_s(side: int = SIDE) -> float:
    """Return GB/s of the best of some matrix-vector products on all cores, which read each weight once."""
    matrix = torch.ones(side, side)
    vector = torch.ones(side)
    matrix.mv(vector)
    return max(_gb_s(lambda: matrix.mv(vector), matrix.nbytes) for _ in range(REPEATS))


def copy_gb_s(side: int = SIDE) -> float:
    """Return GB/s, read and written, of the best of some copies on the GPU."""
    source = torch.ones(side, side, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    copy()
    return max(_gb_s(copy, 2 * source.nbytes) for _ in range(REPEATS))


def _gb_s(work: Callable[[], object], num_bytes: int) -> float:
    began = time.perf_counter()
    work()
    return num_bytes / (time.perf_counter() - began) / 1e9


def gpu_name_and_memory_gib() -> tuple[str, float]:
    """Return what the first GPU is called and how much memory it has."""
    properties = torch.cuda.get_device_properties(0)
    return str(properties.name), properties.total_memory / 2**30


def gpu_is_there() -> bool:
    """Say whether torch can use a GPU here."""
    return torch.cuda.is_available()
