"""GPT-J's forward pass. What it shares with other decoders is in layers.py.

                              ┌─ qkv ─ turn ─ attend ─ proj ─┐
    input_ids (N,) ─ wte ─┬─ ln_1 ────── up ─ act ─ down ──── + ─ + x ─┬─ ln_f ─ hidden (N, E)
                          └─────────────────── L times ────────────────┘

Attention and MLP start from the same norm. Positions turn queries and keys: of the first `rotary_dim` numbers of a
head each two neighbours by an angle that grows with the position. The head has a bias.
Queries, keys and values are three matrices in a checkpoint and one linear here: one product reads them all.
"""

from collections.abc import Mapping

import torch
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
from model_service.models.linear import Affine, Form
from model_service.models.shape import GPTJShape


class GPTJ(Layers):
    """GPT-J, or some layers of it."""

    def __init__(
        self, shape: GPTJShape, tensors: Mapping[str, Tensor], layers: range | None = None, form: Form | None = None
    ) -> None:
        """See `Layers`."""
        super().__init__(shape, tensors, layers, form)
        if self.is_last and "score.weight" not in tensors:
            self.head_bias = tensors["lm_head.bias"]
        self.parts = layer_parts(shape)
        self._turns = turns_of(shape).to(self.device)

    def _block(self, tensors: Mapping[str, Tensor], prefix: str) -> Block:
        qkv = torch.cat([tensors[f"{prefix}attn.{name}_proj.weight"] for name in "qkv"])
        return Block(
            norm_of(tensors, f"{prefix}ln_1"),
            Affine(qkv, None),
            Affine(tensors[f"{prefix}attn.out_proj.weight"], None),
            None,
            affine_of(tensors, f"{prefix}mlp.fc_in"),
            affine_of(tensors, f"{prefix}mlp.fc_out"),
        )

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return (N, E) for ids (N,); positions come in later."""
        return self._embedded(input_ids)

    def rotation(self, position_ids: Tensor) -> Tensor:
        """Return sines and cosines (N, 2, R/2) for positions (N,)."""
        return self._turns[position_ids]


def turns_of(shape: GPTJShape) -> Tensor:
    """Return sine and cosine of each position and pair, (n_positions, 2, R/2) float32."""
    size = shape.rotary_size
    frequencies = 1.0 / (10000 ** (torch.arange(0, size, 2, dtype=torch.int64) / size))
    angles = torch.arange(shape.n_positions).float()[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=1)


def layer_parts(shape: GPTJShape) -> LayerParts:
    """Return a layer's two parts as plain torch calls."""
    activation, epsilon = ACTIVATIONS[shape.activation], shape.layer_norm_epsilon
    heads, size = (-1, 3, shape.n_head, shape.head_size), shape.rotary_size

    def before(x: Tensor, block: Block, turns: Tensor | None, added: Added | None) -> Tensor:
        assert turns is not None
        qkv = run_linear("qkv", block.qkv, block.ln_1(x, epsilon), added).view(heads)
        turned = qkv[:, :2, :, :size]  # queries and keys
        turned.copy_(turn(turned, turns[:, None, None]))
        return qkv

    def after(x: Tensor, attended: Tensor, block: Block, added: Added | None) -> Tensor:
        up = activation(run_linear("up", block.up, block.ln_1(x, epsilon), added))
        return run_linear("proj", block.proj, attended, added) + run_linear("down", block.down, up, added) + x

    return LayerParts(before, after)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of neighbours of x (…, R) by its angle, in float32. turns: (…, 2, R/2), sines and cosines."""
    sine, cosine = turns.unbind(-2)
    left, right = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)  # (…, R/2) each
    return torch.stack((left * cosine - right * sine, right * cosine + left * sine), dim=-1).flatten(-2)
