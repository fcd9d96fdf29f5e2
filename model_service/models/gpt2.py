"""GPT-2's forward pass over a flat list of tokens; where keys and values live is the caller's business.

    input_ids (N,) ─ wte + wpe ─┬─ ln_1 ─ qkv ─ attend ─ proj ─ + ─ ln_2 ─ up ─ act ─ down ─ + ─┬─ ln_f ─ hidden (N, E)
                                └────────────────────── L times ────────────────────────────────┘

The N tokens may belong to any number of sequences: everything but attention works token by token, and
attention is a function that is passed in. So one pass serves prompts and running sequences together.
Weights are those of `transformers`, with the Conv1D matrices turned so that `F.linear` takes them.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.models.linear import Affine, Linear, to_int8

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


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
class GPT2Shape:
    """The numbers of config.json that decide what is computed."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    activation: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "GPT2Shape":
        """Read a config.json. Raises ValueError for what this forward pass does not compute."""
        if config.get("model_type") != "gpt2":
            raise ValueError(f"its model_type is {config.get('model_type')!r}; gpt2 is the one that runs here")
        if config.get("add_cross_attention"):
            raise ValueError("add_cross_attention is on; only decoders without it run here")
        activation = config.get("activation_function", "gelu_new")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation_function {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if config["n_embd"] % config["n_head"]:
            raise ValueError(f"n_embd {config['n_embd']} is not a multiple of n_head {config['n_head']}")
        return cls(
            **{name: config[name] for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")},
            activation=activation,
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            scale_attn_weights=config.get("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=config.get("scale_attn_by_inverse_layer_idx", False),
        )

    @property
    def head_size(self) -> int:
        """D, the size of one head."""
        return self.n_embd // self.n_head

    def attention_scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied by before the softmax."""
        scale = self.head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


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
    """Embeddings, blocks and final norm, read-only. `head` is (V, E): tied or a model's own."""

    def __init__(self, shape: GPT2Shape, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint by transformers' names, without the `transformer.` prefix."""
        self.shape = shape
        self.wte, self.wpe = tensors["wte.weight"], tensors["wpe.weight"]
        self.head = tensors.get("lm_head.weight", self.wte)
        self.ln_f = Affine(tensors["ln_f.weight"], tensors["ln_f.bias"])
        self.blocks = [self._block(tensors, f"h.{i}.") for i in range(shape.n_layer)]
        self._act = ACTIVATIONS[shape.activation]
        self._head: Linear | None = None  # in place of `head`, where that is quantised

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
        model._head = to_int8(Affine(self.head, self.head.new_zeros(len(self.head))))
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.wte.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights and hidden states are held in."""
        return self.wte.dtype

    @property
    def size_bytes(self) -> int:
        """What the weights take, tied ones once."""
        layers = [layer for b in self.blocks for layer in (b.ln_1, b.qkv, b.proj, b.ln_2, b.up, b.down)]
        tensors = [self.wte, self.wpe, self.head if self._head is None else self.wte]
        for layer in (*layers, self.ln_f, *([self._head] if self._head else [])):
            tensors += [getattr(layer, name) for name in layer.__slots__]  # type: ignore[attr-defined]
        return sum({t.data_ptr(): t.nbytes for t in tensors}.values())

    def hidden(self, input_ids: Tensor, position_ids: Tensor, attend: Attend, adapt: Adapt | None = None) -> Tensor:
        """Run all layers. input_ids, position_ids: (N,) int64. Returns (N, E) after the final norm."""

        def linear(name: str, x: Tensor) -> Tensor:
            y: Tensor = getattr(block, name)(x)
            if adapt is not None:
                adapt(layer, name, x, y)
            return y

        heads = (-1, self.shape.n_head, self.shape.head_size)
        x = self.wte[input_ids] + self.wpe[position_ids]
        for layer, block in enumerate(self.blocks):
            q, k, v = linear("qkv", self._norm(x, block.ln_1)).chunk(3, dim=-1)  # (N, E) each
            attended = attend(layer, q.view(heads), k.view(heads), v.view(heads))
            x = x + linear("proj", attended.reshape(x.shape))
            x = x + linear("down", self._act(linear("up", self._norm(x, block.ln_2))))
        return self._norm(x, self.ln_f)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (N, V) float32 for hidden (N, E)."""
        return (self._head(hidden) if self._head else F.linear(hidden, self.head)).float()

    def _norm(self, x: Tensor, norm: Affine) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, self.shape.layer_norm_epsilon)
