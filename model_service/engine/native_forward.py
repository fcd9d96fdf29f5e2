"""GPT-2 with int8 weights on a CPU, by our own kernels (model_service/native). Same border as `TorchForward`.

A row's numbers are the same bits alone and in any batch, so a seed repeats whatever shares it.
"""

from collections.abc import Sequence as Seq
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.models.decoder import Decoder
from model_service.models.gpt2 import GPT2
from model_service.models.linear import Affine
from model_service.models.lora import Adapter, Host, read_adapter
from model_service.native.library import ACTIVATIONS, NativeAdapter, NativeModel, Shape

LINEARS = ("qkv", "proj", "up", "down")  # in the kernels' order


class NativeForward:
    """The kernels' model and its slots. It copies what it needs: the torch model may be dropped afterwards."""

    def __init__(self, model: Decoder, num_slots: int, num_threads: int | None = None) -> None:
        assert isinstance(model, GPT2), model.shape.why_not_native
        shape = model.shape
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
        self._fill(model)
        self._host = Host.of(model, torch.float16)
        self._adapters: WeakKeyDictionary[Adapter, NativeAdapter] = WeakKeyDictionary()

    def _fill(self, model: GPT2) -> None:
        native = self._native
        native.set_embedding(0, [model.wte])
        native.set_embedding(1, [model.wpe])
        for layer, block in enumerate(model.blocks):
            native.set_norm(layer, 0, block.ln_1.weight, block.ln_1.bias)
            assert block.ln_2 is not None
            native.set_norm(layer, 1, block.ln_2.weight, block.ln_2.bias)
            for which, name in enumerate(LINEARS):
                linear = getattr(block, name)
                assert isinstance(linear, Affine)
                native.set_linear(layer, which, linear.weight, linear.bias)
            native.set_scale(layer, model.shape.attention_scale(layer))
        native.set_norm(model.shape.n_layer, 0, model.ln_f.weight, model.ln_f.bias)
        native.set_head([model.head])

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._native.size_bytes

    def seconds(self) -> dict[str, float]:
        """Return how long each phase of the kernels has taken in all."""
        return self._native.seconds()

    def hidden(self, chunks: Seq[Chunk]) -> Tensor:
        """Run the chunks' tokens through all layers. Returns (N, E)."""
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
