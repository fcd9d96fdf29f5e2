"""What all decoders here have in common: layers over a flat list of tokens, in one go or as a part of them.

    ids (N,) ─ embed ─┬─ before ─ attend ─ after ─┬─ finish ─ hidden (N, E) ─ logits (N, V)
                      └────────── L times ────────┘

An architecture (gpt2.py, gptj.py) says what its embedding is and what a layer does before and after its attention;
where keys and values live is the caller's business. The N tokens may belong to any number of sequences: everything but
attention works token by token. So one pass serves prompts and running sequences together, and a captured pass
(engine/decode_step.py) goes through the same functions.

A model may also be a part of one: contiguous layers, with the embeddings if they are the first, with the norm and
the head if they are the last. Parts run one after the other are the whole model (engine/pipeline.py).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.models.linear import Affine, Form, Linear, Packed, to_int8
from model_service.models.shape import ACTIVATION_NAMES, Shape

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
assert set(ACTIVATIONS) == set(ACTIVATION_NAMES.values())


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


class Added(Protocol):
    """What adapters add to the linears of one layer."""

    def to(self, linear: str, x: Tensor, y: Tensor) -> Tensor:
        """Return y (N, out) with what the adapters make of x (N, in)."""
        ...


@dataclass(frozen=True, slots=True)
class InLayer:
    """An `Adapt`, in one layer."""

    adapt: Adapt
    layer: int

    def to(self, linear: str, x: Tensor, y: Tensor) -> Tensor:
        """Return y (N, out) with what the adapters make of x (N, in)."""
        self.adapt(self.layer, linear, x, y)
        return y


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm: weight and bias, (E,) each."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, epsilon: float) -> Tensor:
        """Return x (N, E), each row normed. Mean and variance are taken in float32, whatever x is."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, epsilon)


@dataclass(frozen=True, slots=True)
class Block:
    """The weights of one layer. qkv makes queries, keys and values side by side, (3 E, E)."""

    ln_1: Norm
    qkv: Linear
    proj: Linear
    ln_2: Norm | None  # None: both halves of the layer start from ln_1
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class LayerParts:
    """A layer without its attention, as two functions of tensors, so that one compiled pair serves all layers.

    before(x (N, E), block, turns, added) gives queries, keys and values (N, 3, H, D); after(x, attended (N, E), block,
    added) gives the layer's output (N, E). turns: what `rotation` gives for the tokens' positions. added: of adapters.
    """

    before: Callable[[Tensor, Block, Tensor | None, Added | None], Tensor]
    after: Callable[[Tensor, Tensor, Block, Added | None], Tensor]


def run_linear(name: str, linear: Linear, x: Tensor, added: Added | None) -> Tensor:
    """Return (N, out) for x (N, in), with what adapters add."""
    return linear(x) if added is None else added.to(name, x, linear(x))


class Layers:
    """Embeddings, blocks, final norm and head, read-only; or some layers of them. Architectures derive from it.

    layers: which of the model's; embeddings are only there with the first, norm and head only with the last.
    """

    wte: Tensor  # (V, E), of the first part
    head: Tensor  # (V, E), of the last part: the token embedding if that is tied, or a model's own
    head_bias: Tensor | None = None
    ln_f: Norm
    blocks: list[Block]
    parts: LayerParts

    def __init__(
        self, shape: Shape, tensors: Mapping[str, Tensor], layers: range | None = None, form: Form | None = None
    ) -> None:
        """Take the tensors of a checkpoint by transformers' names, without the `transformer.` prefix.

        Each is asked for when its turn comes, and dropped if another is made of it: `tensors` may read as it is asked.
        form: gives each block's linears another form before the next is asked for; the head is the work of `formed`.
        Raises KeyError with the name of what is missing.
        """
        self.shape = shape
        self.layers = range(shape.n_layer) if layers is None else layers
        self._head: Linear | None = None  # in place of `head`, where that has another form
        self._table: Packed | None = None  # in place of `wte`, where that is tied to a packed head
        if self.is_first:
            self.wte = tensors["wte.weight"]
        self.blocks = []
        for layer in self.layers:
            block = self._block(tensors, f"h.{layer}.")
            self.blocks.append(_formed(block, form) if form else block)
            del block  # before the next one is read
        if self.is_last:
            self.ln_f = norm_of(tensors, "ln_f")
            self.head = self._own_head(tensors)

    def _own_head(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the head that transformers would take: a model's own, unless it is the embedding again."""
        own = tensors.get("lm_head.weight")
        if not self.shape.tied and "score.weight" not in tensors:  # classifiers have another head
            return tensors["lm_head.weight"] if own is None else own
        embedding = self.wte if self.is_first else tensors["wte.weight"]
        return embedding if own is None or torch.equal(own, embedding) else own

    def _block(self, tensors: Mapping[str, Tensor], prefix: str) -> Block:
        raise NotImplementedError

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return (N, E) for ids (N,) at positions (N,)."""
        raise NotImplementedError

    def rotation(self, position_ids: Tensor) -> Tensor | None:
        """Return what `before` needs of the positions (N,), once a pass; None where embeddings carry them."""
        return None

    def finish(self, x: Tensor) -> Tensor:
        """Return what a part hands on, (N, E): after the final norm if it is the last."""
        return self.ln_f(x, self.shape.layer_norm_epsilon) if self.is_last else x

    def hidden(self, x: Tensor, position_ids: Tensor, attend: Attend, adapt: Adapt | None = None) -> Tensor:
        """Run all its layers. position_ids: (N,) int64. Returns (N, E), after the final norm if it is the last part.

        x: input ids (N,) int64 for the first part, what the part before returned (N, E) for the others.
        """
        x = self.embed(x, position_ids) if self.is_first else x.to(self.dtype)  # parts may differ in their format
        turns = self.rotation(position_ids)
        for layer, block in zip(self.layers, self.blocks, strict=True):
            added = None if adapt is None else InLayer(adapt, layer)
            q, k, v = self.parts.before(x, block, turns, added).unbind(1)  # (N, H, D) each
            x = self.parts.after(x, attend(layer, q, k, v).reshape(x.shape), block, added)
        return self.finish(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (N, V) float32 for hidden (N, E)."""
        return (self._head(hidden) if self._head else F.linear(hidden, self.head, self.head_bias)).float()

    def quantised(self) -> Self:
        """Return the same model with int8 linears, in pure torch; embeddings and norms are shared."""
        return self.formed(to_int8)

    def formed(self, form: Form) -> Self:
        """Return the same model with its linears in another form; the rest is shared. `to_packed` uses this one up."""
        model = copy.copy(self)
        model.blocks = [_formed(block, form) for block in self.blocks]
        if self.is_last:
            model._head = form(Affine(self.head, self.head_bias))
            if isinstance(model._head, Packed) and self.is_first and self.head is self.wte:
                model._table = model._head
                del model.wte
            del model.head
        return model

    @property
    def is_first(self) -> bool:
        """Whether it begins with the embeddings, and so takes ids."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether it ends with the norm and the head."""
        return self.layers.stop == self.shape.n_layer

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
        holders: list[object] = [w for b in self.blocks for w in (b.ln_1, b.qkv, b.proj, b.ln_2, b.up, b.down) if w]
        if self.is_first:
            holders += self._embeddings()
        if self.is_last:
            holders += [self.ln_f, self._head or Affine(self.head, self.head_bias)]
        return sum({t.data_ptr(): t.nbytes for holder in holders for t in _tensors(holder)}.values())

    def _embedded(self, ids: Tensor) -> Tensor:
        """Return the token embeddings (N, E) for ids (N,)."""
        return self.wte[ids] if self._table is None else self._table[ids]

    def _embeddings(self) -> list[Tensor | Packed]:
        return [self.wte if self._table is None else self._table]


def affine_of(tensors: Mapping[str, Tensor], name: str) -> Affine:
    """Return a linear that has a bias."""
    return Affine(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def norm_of(tensors: Mapping[str, Tensor], name: str) -> Norm:
    """Return a layer norm."""
    return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _formed(block: Block, form: Form) -> Block:
    return replace(block, **{name: form(getattr(block, name)) for name in ("qkv", "proj", "up", "down")})  # type: ignore[arg-type]


def _tensors(holder: object) -> list[Tensor]:
    """Return what a linear or a norm holds, or a tensor itself."""
    if isinstance(holder, Tensor):
        return [holder]
    held = (getattr(holder, name) for name in holder.__slots__)  # type: ignore[attr-defined]
    return [t for t in held if t is not None]
