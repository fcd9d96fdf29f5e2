"""Adapters of captured steps: a few places at fixed addresses, and a mask that says which row uses which.

    thin = x A^T           A (P r, in): the adapters of all places, one below the other
    thin of strangers = 0  each row keeps the columns of its own adapter; one without an adapter keeps none
    y += thin B            B (P r, out)

Two products serve all adapters together, and a row's result depends on its own adapter alone. Memory is taken when the
first adapter comes: GPT-2 XL in FP16, eight places of rank 16 on all linears, 315 MB.
"""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model_service.models.lora import Adapter, Host

PLACES, RANK = 8, 16
NO_PLACE = -1  # of a row without an adapter

Pairs = Mapping[str, tuple[Tensor, Tensor]]  # of one layer, by linear: A (P r, in) and B (P r, out)


@dataclass(frozen=True, slots=True)
class Added:
    """What a step adds to the linears of one layer."""

    pairs: Pairs
    strangers: Tensor  # (B, P r) bool: columns that are not the row's

    def to(self, linear: str, x: Tensor, y: Tensor) -> Tensor:
        """Return y (B, out) with what the adapters make of x (B, in)."""
        if linear not in self.pairs:
            return y
        a, b = self.pairs[linear]
        # filled, not multiplied: zero times what overflowed under somebody else's adapter is NaN
        return torch.addmm(y, (x @ a.T).masked_fill(self.strangers, 0), b)


class AdapterPlaces:
    """Room for `places` adapters up to `rank`. Others must run some other way: `place` leaves them out."""

    def __init__(self, host: Host, places: int = PLACES, rank: int = RANK) -> None:
        self._host, self._rank = host, rank
        self._held: dict[int, weakref.ref[Adapter] | None] = dict.fromkeys(range(places))  # longest unused first
        self._pairs: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(host.n_layer)]
        self._place_of_column = torch.arange(places, device=host.device).repeat_interleave(rank)

    @property
    def linears(self) -> tuple[str, ...]:
        """Those that some adapter so far has changed; a captured step serves them and no others."""
        return tuple(self._pairs[0])

    def pairs(self, layer: int) -> Pairs:
        """Return a layer's matrices. Their addresses stay."""
        return self._pairs[layer]

    def strangers(self, place: Tensor) -> Tensor:
        """Return for rows with these places, (B,), which columns belong to others: (B, P r) bool."""
        return self._place_of_column != place[:, None]

    def place(self, wanted: Iterable[Adapter]) -> dict[Adapter, int]:
        """Give adapters a place, in place of those that are not wanted now. Returns the places of those that fit."""
        fitting = [a for a in dict.fromkeys(wanted) if a.rank <= self._rank][: len(self._held)]
        by_adapter = {adapter: place for place, ref in self._held.items() if ref and (adapter := ref())}
        places = {adapter: by_adapter[adapter] for adapter in fitting if adapter in by_adapter}
        free = (place for place in list(self._held) if place not in places.values())
        for adapter in fitting:
            if adapter not in places:
                places[adapter] = next(free)
                self._write(places[adapter], adapter)
        for adapter, place in places.items():
            self._held.pop(place)
            self._held[place] = weakref.ref(adapter)  # a dropped adapter goes with its last sequence
        return places

    def _write(self, place: int, adapter: Adapter) -> None:
        """Copy an adapter in; what it leaves alone is zero there."""
        for linear in {name for linears in adapter.layers for name in linears} - set(self.linears):
            self._make_room(linear)
        rows = slice(place * self._rank, (place + 1) * self._rank)
        for pairs, linears in zip(self._pairs, adapter.layers, strict=True):
            for linear, (a, b) in pairs.items():
                low = linears.get(linear)
                rank = low.rank if low else 0
                a[rows][rank:].zero_()
                b[rows][rank:].zero_()
                if low:
                    a[rows][:rank].copy_(low.a)
                    b[rows][:rank].copy_(low.b)

    def _make_room(self, linear: str) -> None:
        num_columns = len(self._place_of_column)
        for pairs in self._pairs:
            size_in, size_out = self._host.sizes(linear)
            pairs[linear] = (
                torch.zeros(num_columns, size_in, dtype=self._host.dtype, device=self._host.device),
                torch.zeros(num_columns, size_out, dtype=self._host.dtype, device=self._host.device),
            )
