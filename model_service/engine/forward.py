"""A model with its cache, as the runner sees it: tokens in, hidden states and logits out.

`TorchForward` is the plain one: any device, any float format, equal to transformers token for token in float32.
"""

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from model_service.engine.adapters import AdapterStack
from model_service.engine.attention import StepAttention
from model_service.engine.kv_cache import KVCache
from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.models.decoder import Decoder
from model_service.models.lora import Adapter, Host, read_adapter


class Forward(Protocol):
    """What the runner needs of a model. Keys and values of `chunks` are in the cache once `hidden` returns.

    A chunk whose `sequence.adapter` is not None runs with that adapter added to the model's linears.
    Of a model that is split (stage.py), each part has a forward of its own.
    """

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        ...

    def hidden(self, chunks: Seq[Chunk], x: Tensor | None = None) -> Tensor:
        """Run the chunks' tokens through all layers. Returns (N, E), in the order of the chunks, after the norm.

        x: what the part before made of them (N, E), on any device; None for a model's first part.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (B, V) float32 for rows of hidden states (B, E)."""
        ...

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold; see `Move` for how much of it counts."""
        ...

    def copy(self, copy: Copy) -> None:
        """Give a slot the beginning of what another holds."""
        ...

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken."""
        ...

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        """Read an adapter, ready for sequences to carry. Blocks, on any thread. Raises CheckpointError."""
        ...


class TorchForward:
    """A decoder in torch on one device, with fixed KV slots. Single tokens must come first among the chunks."""

    def __init__(self, model: Decoder, num_slots: int) -> None:
        self._model = model
        self._cache = KVCache(model, num_slots, model.shape.n_positions)
        self._stack = AdapterStack()

    @property
    def model(self) -> Decoder:
        """The weights."""
        return self._model

    @property
    def cache(self) -> KVCache:
        """Keys and values; whoever else writes them keeps to the slots of its sequences."""
        return self._cache

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._model.size_bytes

    def hidden(self, chunks: Seq[Chunk], x: Tensor | None = None) -> Tensor:
        """Run the chunks' tokens through all its layers. Returns (N, E)."""
        model = self._model
        if x is None:
            x = torch.tensor([t for c in chunks for t in c.sequence.token_ids[c.start : c.end]])
        positions = torch.tensor([p for c in chunks for p in range(c.start, c.end)], device=model.device)
        attention = StepAttention(chunks, self._cache, model.shape, model.device)
        dtype = model.dtype if x.is_floating_point() else x.dtype  # the part before may hold another number format
        x = x.to(model.device, dtype, non_blocking=True)
        return model.hidden(x, positions, attention, self._stack.step(chunks))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (B, V) float32 for rows of hidden states (B, E)."""
        return self._model.logits(hidden)

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold."""
        self._cache.move(move)

    def copy(self, copy: Copy) -> None:
        """Give a slot the beginning of what another holds."""
        self._cache.copy(copy)

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken."""
        self._cache.clear(slot)

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        """Read an adapter, ready for sequences to carry. Blocks, on any thread. Raises CheckpointError."""
        return read_adapter(name, folder, Host.of(self._model))
