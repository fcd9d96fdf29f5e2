"""Runs fixed work again and again: on a GPU as a captured CUDA graph, elsewhere by calling it.

A graph holds the kernels of one call with the addresses they worked on, so the work must read and write static
tensors, allocate nothing that is read later, and never wait for the GPU. What it allocates comes from one pool that
all graphs of an engine share: they never run at the same time.
"""

import threading
from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], None]

_one_capture = threading.Lock()  # torch allows one at a time in a process
WARM_UP_RUNS = 2  # libraries choose kernels and allocate in the first ones, which a capture must not see


class Graphs(Protocol):
    """Makes work repeatable."""

    def capture(self, work: Work) -> Work:
        """Run `work` at least once and return what repeats it. What it reads must be harmless by then."""
        ...


class EagerGraphs:
    """No graphs: work is called, on any device."""

    def capture(self, work: Work) -> Work:
        """Run `work` once, as a GPU's warm-up does, and return it."""
        work()
        return work


class CudaGraphs:
    """CUDA graphs on one device. Captured on a stream of their own, replayed on the current one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # all live as long as this: the end of one may free a workspace that others of its stream use (pytorch #193402)
        self._captured: list[tuple[torch.cuda.CUDAGraph, Work]] = []  # with what holds the tensors that each reads

    def capture(self, work: Work) -> Work:
        """Run `work` to warm up, capture it, and return its replay. Waits for the device."""
        with _one_capture, torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP_RUNS):
                    work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other engines of the process allocate and wait on their own threads meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        self._captured.append((graph, work))

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return replay
