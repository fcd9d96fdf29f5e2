"""GPT-2 with int8 weights on a CPU, by our own kernels (model_service/native). Same border as `TorchForward`.

A row's numbers are the same bits alone and in any batch, so a seed repeats whatever shares it.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.models.layers import Block, Norm
from model_service.models.linear import Affine
from model_service.models.lora import Adapter, Host, read_adapter
from model_service.models.shape import Shape as ModelShape
from model_service.native.library import ACTIVATIONS, NativeAdapter, NativeModel, Shape

LINEARS = ("qkv", "proj", "up", "down")  # in the kernels' order
ROWS = 1024  # of a table at a time


class Rows(Protocol):
    """A table, (rows, E)."""

    def split(self, rows: int) -> Iterable[Tensor]:
        """Return it in pieces of about so many rows, in order."""
        ...


class Blocks(Protocol):
    """A model's layers."""

    def __getitem__(self, layer: int, /) -> Block:
        """Return a layer's weights."""
        ...


class Source(Protocol):
    """A GPT-2 in float32 to be copied: a `GPT2` in memory, or a `StoredGPT2`, which reads what it is asked for."""

    @property
    def shape(self) -> ModelShape:
        """The sizes."""
        ...

    @property
    def wte(self) -> Rows:
        """(V, E)."""
        ...

    @property
    def wpe(self) -> Rows:
        """(n_positions, E)."""
        ...

    @property
    def blocks(self) -> Blocks:
        """The layers."""
        ...

    @property
    def ln_f(self) -> Norm:
        """The final norm."""
        ...

    @property
    def head(self) -> Rows:
        """(V, E)."""
        ...


class NativeForward:
    """The kernels' model and its slots. It copies what it needs, a layer at a time: the source may be dropped then."""

    def __init__(self, source: Source, num_slots: int, num_threads: int | None = None) -> None:
        shape = source.shape
        assert not shape.why_not_native, shape.why_not_native
        self._native = NativeModel(
            Shape(
                shape.vocab_size,
                shape.n_positions,
                shape.n_embd,
                shape.n_layer,
                shape.n_head,
                shape.inner_size,
                ACTIVATIONS[shape.activation],
                shape.layer_norm_epsilon,
            ),
            num_slots,
            num_threads or torch.get_num_threads(),
        )
        self._fill(source)
        self._host = Host(shape.n_layer, shape.n_embd, shape.inner_size, torch.float16, torch.device("cpu"))
        self._adapters: WeakKeyDictionary[Adapter, NativeAdapter] = WeakKeyDictionary()

    def _fill(self, source: Source) -> None:
        native, shape = self._native, source.shape
        native.set_embedding(0, source.wte.split(ROWS))
        native.set_embedding(1, source.wpe.split(ROWS))
        for layer in range(shape.n_layer):
            self._fill_layer(layer, source.blocks[layer])  # no name keeps it: it goes before the next one is read
            native.set_scale(layer, shape.attention_scale(layer))
        ln_f = source.ln_f
        native.set_norm(shape.n_layer, 0, ln_f.weight, ln_f.bias)
        native.set_head(source.head.split(ROWS))

    def _fill_layer(self, layer: int, block: Block) -> None:
        assert block.ln_2 is not None
        for which, norm in enumerate((block.ln_1, block.ln_2)):
            self._native.set_norm(layer, which, norm.weight, norm.bias)
        for which, name in enumerate(LINEARS):
            linear = getattr(block, name)
            assert isinstance(linear, Affine)
            self._native.set_linear(layer, which, linear.weight, linear.bias)

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._native.size_bytes

    def seconds(self) -> dict[str, float]:
        """Return how long each phase of the kernels has taken in all."""
        return self._native.seconds()

    def hidden(self, chunks: Seq[Chunk], x: Tensor | None = None) -> Tensor:
        """Run the chunks' tokens through all layers. Returns (N, E)."""
        assert x is None, "the kernels run whole models"
        ids = [t for c in chunks for t in c.sequence.token_ids[c.start : c.end]]
        return self._native.hidden(torch.tensor(ids), [self._tokens(c) for c in chunks])

    def _tokens(self, chunk: Chunk) -> tuple[int, int, int, int | None]:
        adapter = chunk.sequence.adapter
        handle = None if adapter is None else self._adapters[adapter].handle
        return chunk.sequence.slot, chunk.start, chunk.end - chunk.start, handle

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (B, V) float32 for rows of hidden states (B, E)."""
        return self._native.logits(hidden)

    def move(self, move: Move) -> None:
        """Let two slots trade places, without a copy."""
        self._native.swap(move.source, move.target)

    def copy(self, copy: Copy) -> None:
        """Give a slot the beginning of what another holds."""
        self._native.copy(copy.source, copy.target, copy.length)

    def clear(self, slot: int) -> None:
        """Nothing to wipe: positions that a sequence has not written are never read."""

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        """Read an adapter and copy it over; the copy goes with it. Blocks. Raises CheckpointError."""
        adapter = read_adapter(name, folder, self._host)
        matrices = [
            (layer, which, linears[name].a, linears[name].b)
            for layer, linears in enumerate(adapter.layers)
            for which, name in enumerate(LINEARS)
            if name in linears
        ]
        self._adapters[adapter] = NativeAdapter(self._host.n_layer, matrices)
        return adapter
