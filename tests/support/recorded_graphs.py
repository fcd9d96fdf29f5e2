"""CUDA graphs as a CPU can have them: the operations of one run are recorded, and replayed on the same tensors.

A replay runs no Python of the work: what it decided while it was recorded is fixed, and so are the addresses it used.
What it allocated is filled with rubbish between replays, as graphs of one pool write over each other's memory.
Operations that make a host wait for its GPU cannot be captured there, and raise here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item", "_unique2")


class HostWaits(Exception):
    """The work looks at a tensor's numbers."""


class _Recorder(TorchDispatchMode):
    """Keeps each operation with its arguments and what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name.startswith("index") and _has_mask(args)):
            raise HostWaits(name)
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        made = [t for t in _tensors(out) if t.untyped_storage().data_ptr() not in given]
        if made or func._schema.is_mutable:  # the others are views: they are where they were
            self.calls.append((func, args, kwargs or {}, made))
        return out


def _has_mask(args: Any) -> bool:
    """Whether a tensor is indexed by booleans, whose count the host would have to know."""
    return any(t.dtype == torch.bool for t in _tensors(args[1]))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


class RecordedGraphs:
    """Replays what was recorded."""

    def __init__(self) -> None:
        self.captured = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run the work to warm up, and once more to record it; return what replays it."""
        self.captured += 1
        work()
        with _Recorder() as recorder:
            work()
        calls = recorder.calls
        _spoil(calls)

        def replay() -> None:
            for func, args, kwargs, made in calls:
                out = func(*args, **kwargs)
                for target, result in zip(made, [t for t in _tensors(out)] if made else [], strict=False):
                    target.copy_(result)
            _spoil(calls)

        return replay


def _spoil(calls: list[Any]) -> None:
    for *_, made in calls:
        for tensor in made:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 1)
