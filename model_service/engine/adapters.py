"""Applies the adapters of one step: each sequence has its own, or none, and all run together.

rows of the step    a b - a | b b b b | a a a        single tokens, then chunks of two prompts
                    └─────┘
    gather by adapter  a: 0 3    b: 1 .              (S, m) rows of x, short ones filled up
    two batched products over the stack              y[row] += (x[row] A^T) B^T
The chunks are one sequence's each, so each takes two plain products.

The stack holds the matrices of the adapters in use side by side, padded to one rank. It is written only when an
adapter comes that is not in it, so steps of the same sequences share it.
"""

import weakref
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from model_service.engine.scheduler import Chunk
from model_service.models.layers import Adapt
from model_service.models.lora import Adapter


class AdapterStack:
    """The adapters of the running sequences, side by side; belongs to one forward pass and its thread."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}  # of a layer's linear: (S, r, in), (S, r, out)
        self._rank = 0
        self._slots: list[Callable[[], Adapter | None]] = []  # weak: a dropped adapter goes with its last sequence

    def step(self, chunks: Seq[Chunk]) -> Adapt | None:
        """Return what adds the chunks' adapters to the linears of one pass; None if no chunk has one."""
        return StepAdapters(chunks, self) if any(chunk.sequence.adapter for chunk in chunks) else None

    def place(self, wanted: Seq[Adapter]) -> list[int]:
        """Return the slots of distinct adapters, after copying in those that are not there."""
        rank = max(adapter.rank for adapter in wanted)
        if rank > self._rank or not len(wanted) <= len(self._slots) <= 2 * len(wanted):
            self.pairs, self._rank = {}, rank
            self._slots = [_nothing] * (1 << (len(wanted) - 1).bit_length())  # room for a few more
        held = [slot() for slot in self._slots]
        free = [slot for slot, adapter in enumerate(held) if adapter not in wanted]
        for adapter in wanted:
            if adapter not in held:
                slot = free.pop(0)
                self._write(slot, adapter)
                held[slot], self._slots[slot] = adapter, weakref.ref(adapter)
        return [held.index(adapter) for adapter in wanted]

    def _write(self, slot: int, adapter: Adapter) -> None:
        """Copy an adapter into a slot; what it leaves alone is zero there."""
        for layer, linears in enumerate(adapter.layers):
            for linear, low in linears.items():
                if (layer, linear) not in self.pairs:
                    room = (len(self._slots), self._rank)
                    self.pairs[layer, linear] = (
                        low.a.new_zeros(*room, low.a.shape[1]),
                        low.b.new_zeros(*room, low.b.shape[1]),
                    )
        for (layer, linear), (a, b) in self.pairs.items():
            low_rank = adapter.layers[layer].get(linear)
            rank = low_rank.rank if low_rank else 0
            a[slot, rank:], b[slot, rank:] = 0, 0
            if low_rank:
                a[slot, :rank], b[slot, :rank] = low_rank.a, low_rank.b


def _nothing() -> None:
    """Stand in a slot that holds no adapter."""


class StepAdapters:
    """Which rows of a step get which adapter. `chunks`: single tokens first."""

    def __init__(self, chunks: Seq[Chunk], stack: AdapterStack) -> None:
        self._stack = stack
        self._prompts: list[tuple[slice, Adapter]] = []
        rows: dict[Adapter, list[int]] = {}
        row = 0
        for chunk in chunks:
            adapter, end = chunk.sequence.adapter, row + chunk.end - chunk.start
            if adapter and adapter.rank and end - row == 1:
                rows.setdefault(adapter, []).append(row)
            elif adapter:
                self._prompts.append((slice(row, end), adapter))
            row = end
        self._num_slots = 0
        if rows:
            device = next(low.a.device for layer in next(iter(rows)).layers for low in layer.values())
            self._group(list(rows.values()), stack.place(list(rows)), device)

    def _group(self, rows: list[list[int]], slots: list[int], device: torch.device) -> None:
        """Lay out the single tokens by slot. rows: of each adapter. slots: of each adapter."""
        self._num_slots, width = max(slots) + 1, max(map(len, rows))
        gather = [0] * (self._num_slots * width)  # short ones are filled up with row 0, and nobody reads what it makes
        places: list[int] = []
        for slot, some in zip(slots, rows, strict=True):
            gather[slot * width : slot * width + len(some)] = some
            places += range(slot * width, slot * width + len(some))
        targets = [row for some in rows for row in some]
        self._aligned = gather == list(range(len(targets)))  # each row stands where it is needed
        self._shape = (self._num_slots, width, -1)
        self._gather, self._places, self._targets = (torch.tensor(i, device=device) for i in (gather, places, targets))

    def __call__(self, layer: int, linear: str, x: Tensor, y: Tensor) -> None:
        """Add to y (N, out) what the adapters of its rows make of x (N, in)."""
        if self._num_slots and (pair := self._stack.pairs.get((layer, linear))):
            a, b = pair[0][: self._num_slots], pair[1][: self._num_slots]
            if self._aligned:
                num_rows = len(self._gather)
                thin = torch.bmm(x[:num_rows].reshape(self._shape), a.transpose(1, 2))  # (S, m, r)
                y[:num_rows].view(self._shape).baddbmm_(thin, b)
            else:
                thin = torch.bmm(x[self._gather].view(self._shape), a.transpose(1, 2))
                added = torch.bmm(thin, b).flatten(0, 1)
                y.index_add_(0, self._targets, added[self._places])
        for rows, adapter in self._prompts:
            if low := adapter.layers[layer].get(linear):
                y[rows].addmm_(x[rows] @ low.a.T, low.b)
