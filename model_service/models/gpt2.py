"""GPT-2's forward pass over a flat list of tokens; where keys and values live is the caller's business.

    input_ids (N,) ─ wte + wpe ─┬─ ln_1 ─ qkv ─ attend ─ proj ─ + ─ ln_2 ─ up ─ act ─ down ─ + ─┬─ ln_f ─ hidden (N, E)
                                └────────────────────── L times ────────────────────────────────┘

A model may also be a part of one: contiguous layers, with the embeddings if they are the first, with the norm and
the head if they are the last. Parts run one after the other are the whole model (engine/pipeline.py).

The N tokens may belong to any number of sequences: everything but attention works token by token, and
attention is a function that is passed in. So one pass serves prompts and running sequences together.
Weights are those of `transformers`, with the Conv1D matrices turned so that `F.linear` takes them.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.models.linear import Affine, Linear, to_int8
from model_service.models.shape import ACTIVATION_NAMES, GPT2Shape

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}
assert tuple(ACTIVATIONS) == ACTIVATION_NAMES


class Attend(Protocol):
    """Causal attention of one layer. q, k, v: (N, H, D); returns (N, H, D)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Attend in one layer."""
        ...


class Adapt(Protocol):
    """Adds in place to what a linear of a layer made of x: (N, in) to y: (N, out). linear: qkv, proj, up or down."""

    def __call__(self, layer: int, linear: str, x: Tensor, y: Tensor, /) -> None:
        """Add to y."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """The weights of one layer."""

    ln_1: Affine
    qkv: Linear
    proj: Linear
    ln_2: Affine
    up: Linear
    down: Linear


class GPT2:
    """Embeddings, blocks and final norm, read-only; or some layers of it. `head` is (V, E): tied or a model's own.

    layers: which of the model's; embeddings are only there with the first, norm and head only with the last.
    """

    def __init__(self, shape: GPT2Shape, tensors: Mapping[str, Tensor], layers: range | None = None) -> None:
        """Take the tensors of a checkpoint by transformers' names, without the `transformer.` prefix."""
        self.shape = shape
        self.layers = range(shape.n_layer) if layers is None else layers
        if self.is_first:
            self.wte, self.wpe = tensors["wte.weight"], tensors["wpe.weight"]
        if self.is_last:
            self.head = tensors.get("lm_head.weight", tensors["wte.weight"])
            self.ln_f = Affine(tensors["ln_f.weight"], tensors["ln_f.bias"])
        self.blocks = [self._block(tensors, f"h.{i}.") for i in self.layers]
        self._act = ACTIVATIONS[shape.activation]
        self._head: Linear | None = None  # in place of `head`, where that is quantised

    @property
    def is_first(self) -> bool:
        """Whether it begins with the embeddings, and so takes ids."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether it ends with the norm and the head."""
        return self.layers.stop == self.shape.n_layer

    @staticmethod
    def _block(tensors: Mapping[str, Tensor], prefix: str) -> Block:
        def affine(name: str) -> Affine:
            return Affine(tensors[f"{prefix}{name}.weight"], tensors[f"{prefix}{name}.bias"])

        return Block(
            affine("ln_1"),
            affine("attn.c_attn"),
            affine("attn.c_proj"),
            affine("ln_2"),
            affine("mlp.c_fc"),
            affine("mlp.c_proj"),
        )

    def quantised(self) -> "GPT2":
        """Return the same model with int8 linears, in pure torch; embeddings and norms are shared."""
        model = copy.copy(self)
        model.blocks = [
            replace(b, qkv=to_int8(b.qkv), proj=to_int8(b.proj), up=to_int8(b.up), down=to_int8(b.down))
            for b in self.blocks
        ]
        if self.is_last:
            model._head = to_int8(Affine(self.head, self.head.new_zeros(len(self.head))))
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.blocks[0].ln_1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the norms, the embeddings and hidden states are held in."""
        return self.blocks[0].ln_1.weight.dtype

    @property
    def size_bytes(self) -> int:
        """What the weights take, tied ones once."""
        layers = [layer for b in self.blocks for layer in (b.ln_1, b.qkv, b.proj, b.ln_2, b.up, b.down)]
        tensors: list[Tensor] = [self.wte, self.wpe] if self.is_first else []
        if self.is_last:
            layers += [self.ln_f, *([self._head] if self._head else [])]
            tensors += [] if self._head else [self.head]
        for layer in layers:
            tensors += [getattr(layer, name) for name in layer.__slots__]  # type: ignore[attr-defined]
        return sum({t.data_ptr(): t.nbytes for t in tensors}.values())

    def hidden(self, x: Tensor, position_ids: Tensor, attend: Attend, adapt: Adapt | None = None) -> Tensor:
        """Run all its layers. position_ids: (N,) int64. Returns (N, E), after the final norm if it is the last part.

        x: input ids (N,) int64 for the first part, what the part before returned (N, E) for the others.
        """

        def linear(name: str, x: Tensor) -> Tensor:
            y: Tensor = getattr(block, name)(x)
            if adapt is not None:
                adapt(layer, name, x, y)
            return y

        heads = (-1, self.shape.n_head, self.shape.head_size)
        if self.is_first:
            x = self.wte[x] + self.wpe[position_ids]
        for layer, block in zip(self.layers, self.blocks, strict=True):
            q, k, v = linear("qkv", self._norm(x, block.ln_1)).chunk(3, dim=-1)  # (N, E) each
            attended = attend(layer, q.view(heads), k.view(heads), v.view(heads))
            x = x + linear("proj", attended.reshape(x.shape))
            x = x + linear("down", self._act(linear("up", self._norm(x, block.ln_2))))
        return self._norm(x, self.ln_f) if self.is_last else x

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (N, V) float32 for hidden (N, E)."""
        return (self._head(hidden) if self._head else F.linear(hidden, self.head)).float()

    def _norm(self, x: Tensor, norm: Affine) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, self.shape.layer_norm_epsilon)
