"""GPT-2's forward pass. What it shares with other decoders is in layers.py.

    input_ids (N,) ─ wte + wpe ─┬─ ln_1 ─ qkv ─ attend ─ proj ─ + ─ ln_2 ─ up ─ act ─ down ─ + ─┬─ ln_f ─ hidden (N, E)
                                └────────────────────── L times ────────────────────────────────┘

Weights are those of `transformers`, with the Conv1D matrices turned so that `F.linear` takes them.
"""

from collections.abc import Mapping

from torch import Tensor

from model_service.models.layers import (
    ACTIVATIONS,
    Added,
    Block,
    LayerParts,
    Layers,
    affine_of,
    norm_of,
    run_linear,
)
from model_service.models.linear import Form, Packed
from model_service.models.shape import GPT2Shape


class GPT2(Layers):
    """GPT-2, or some layers of it."""

    wpe: Tensor  # (n_positions, E), of the first part

    def __init__(
        self, shape: GPT2Shape, tensors: Mapping[str, Tensor], layers: range | None = None, form: Form | None = None
    ) -> None:
        """See `Layers`."""
        super().__init__(shape, tensors, layers, form)
        if self.is_first:
            self.wpe = tensors["wpe.weight"]
        self.parts = layer_parts(shape)

    def _block(self, tensors: Mapping[str, Tensor], prefix: str) -> Block:
        return read_block(tensors, prefix)

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return (N, E) for ids (N,) at positions (N,)."""
        return self._embedded(input_ids) + self.wpe[position_ids]

    def _embeddings(self) -> list[Tensor | Packed]:
        return [*super()._embeddings(), self.wpe]


def read_block(tensors: Mapping[str, Tensor], prefix: str) -> Block:
    """Return the weights of a layer. prefix: of its tensors, `h.0.`."""
    return Block(
        norm_of(tensors, f"{prefix}ln_1"),
        affine_of(tensors, f"{prefix}attn.c_attn"),
        affine_of(tensors, f"{prefix}attn.c_proj"),
        norm_of(tensors, f"{prefix}ln_2"),
        affine_of(tensors, f"{prefix}mlp.c_fc"),
        affine_of(tensors, f"{prefix}mlp.c_proj"),
    )


def layer_parts(shape: GPT2Shape) -> LayerParts:
    """Return a layer's two parts as plain torch calls."""
    activation, epsilon = ACTIVATIONS[shape.activation], shape.layer_norm_epsilon
    heads = (-1, 3, shape.n_head, shape.head_size)

    def before(x: Tensor, block: Block, turns: Tensor | None, added: Added | None) -> Tensor:
        return run_linear("qkv", block.qkv, block.ln_1(x, epsilon), added).view(heads)

    def after(x: Tensor, attended: Tensor, block: Block, added: Added | None) -> Tensor:
        assert block.ln_2 is not None
        x = x + run_linear("proj", block.proj, attended, added)
        up = activation(run_linear("up", block.up, block.ln_2(x, epsilon), added))
        return x + run_linear("down", block.down, up, added)

    return LayerParts(before, after)
