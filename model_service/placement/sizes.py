"""What a model takes on a device, in bytes, from the numbers of its config.json alone. No torch here.

    weights     exactly what the loaded tensors take, part by part (tests hold it to real models)
    a sequence  its keys and values in the layers of the part, and what drawing its tokens takes, at the last part
    workspace   what passes need on their way: activations of prompts, gathered keys and values, graphs, libraries

A part is a range of layers; the embeddings belong to the first, the final norm and the head to the last. A head that
is tied to the embedding is free where that is, and a copy of it anywhere else.
"""

from dataclasses import dataclass

from model_service.engine.workspace import Kind, workspace_bytes
from model_service.models.shape import Shape

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 4}  # int8: of what stays as it is
TILE = 32  # int8 in torch is padded to whole tiles, see models/linear.py
GROUP, OUTPUTS, LANES, PAGE = 64, 32, 16, 4096  # and in the kernels, see native/src/linear.h and simd.h

DRAW_BYTES: dict[Kind, int] = {"gpu": 48, "cpu": 16}  # per sequence and token of the vocabulary: logits, sums, sorts
RANK, PLACES = 16, 8  # of an adapter; of adapters in captured steps, see engine/adapter_places.py


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's bytes. labels: of a classifier, 0 for one that generates. kernels: whether int8 runs in ours.

    num_adapters: that run on it.
    """

    shape: Shape
    labels: int = 0
    kernels: bool = False
    num_adapters: int = 0

    @property
    def all_layers(self) -> range:
        """Every layer: the whole model."""
        return range(self.shape.n_layer)

    @property
    def num_parameters(self) -> int:
        """Numbers that were learned; a tied head counts once."""
        return self.weights(self.all_layers, "float32") // 4

    def total(self, layers: range, weights: str, kind: Kind, slots: int) -> int:
        """Return what a part takes with room for that many sequences."""
        fixed = self.weights(layers, weights) + self.workspace(layers, weights, kind, slots)
        return fixed + slots * self.slot(layers, weights, kind)

    def weights(self, layers: range, weights: str) -> int:
        """Return what the weights of a part take in a number format."""
        kernels = weights == "int8" and self.kernels
        e = self.shape.n_embd
        norm = 2 * _pages(4 * _up(e, GROUP)) if kernels else 2 * e * ITEMSIZE[weights]
        norms, linears = _block(self.shape)
        layer = norms * norm + sum(self._linear(*linear, weights) for linear in linears)
        size = len(layers) * layer
        if layers.start == 0:
            size += self._embeddings(weights)
        if layers.stop == self.shape.n_layer:
            size += norm + self._head(layers, weights)
        return size

    def slot(self, layers: range, weights: str, kind: Kind) -> int:
        """Return what one more sequence takes on a part: its cache, and at the last part its draws."""
        if self.labels:
            return 0
        shape = self.shape
        if (
            weights == "int8" and self.kernels
        ):  # tiles of whole registers, and one head more, see native/src/attention.h
            head = 2 * 2 * LANES * _up(shape.head_size, LANES)
            cache = _up(shape.n_positions, LANES) // LANES * (len(layers) * shape.n_head + 1) * head
        else:
            cache = 2 * len(layers) * shape.n_positions * shape.n_embd * ITEMSIZE[weights]
        return cache + (DRAW_BYTES[kind] * shape.vocab_size if layers.stop == shape.n_layer else 0)

    def workspace(self, layers: range, weights: str, kind: Kind, slots: int) -> int:
        """Return what passes over a part need beside weights and cache, with that many sequences."""
        last = layers.stop == self.shape.n_layer and not self.labels
        size = workspace_bytes(self.shape, ITEMSIZE[weights], slots, kind, last=last)
        return size + self._adapters(layers, weights, kind)

    def _adapters(self, layers: range, weights: str, kind: Kind) -> int:
        """Return what adapters of all linears take, and on a GPU the places that captured steps read them from."""
        itemsize = 2 if weights == "int8" and self.kernels else ITEMSIZE[weights]
        _, linears = _block(self.shape)
        one = len(layers) * RANK * sum(outputs + inputs for outputs, inputs, _ in linears) * itemsize
        return one * (self.num_adapters + (PLACES if kind == "gpu" and self.num_adapters else 0))

    def _linear(self, outputs: int, inputs: int, bias: bool, weights: str) -> int:
        if weights != "int8":
            return (outputs * inputs + outputs * bias) * ITEMSIZE[weights]
        if self.kernels:
            padded = _up(outputs, OUTPUTS)
            return _pages(padded * _up(inputs, GROUP)) + 2 * _pages(4 * padded)  # values, scales and bias
        return _up(outputs, TILE) * (_up(inputs, TILE) + 4) + 4 * outputs  # values, scales; a bias, also of zeros

    def _embeddings(self, weights: str) -> int:
        rows = (
            (self.shape.vocab_size, self.shape.n_positions) if _has_positions(self.shape) else (self.shape.vocab_size,)
        )
        if weights == "int8" and self.kernels:
            return sum(_pages(2 * (count * _up(self.shape.n_embd, GROUP) + LANES)) for count in rows)
        return sum(rows) * self.shape.n_embd * ITEMSIZE[weights]

    def _head(self, layers: range, weights: str) -> int:
        """Return what turns the last hidden state into logits, or into a classifier's scores."""
        shape = self.shape
        score = self.labels * shape.n_embd * ITEMSIZE[weights]
        if weights == "int8":
            return score + self._linear(shape.vocab_size, shape.n_embd, True, weights)
        if self.labels:
            return score
        has_bias = not _has_positions(shape)
        if shape.tied and layers.start == 0:
            return has_bias * shape.vocab_size * ITEMSIZE[weights]
        return self._linear(shape.vocab_size, shape.n_embd, has_bias, weights)


def _has_positions(shape: Shape) -> bool:
    """Whether positions are embeddings of their own; GPT-J turns queries and keys instead."""
    return shape.model_type == "gpt2"


def _block(shape: Shape) -> tuple[int, list[tuple[int, int, bool]]]:
    """Return a layer's norms and its linears as (outputs, inputs, bias)."""
    e, inner, gpt2 = shape.n_embd, shape.inner_size, shape.model_type == "gpt2"
    attention = [(3 * e, e, gpt2), (e, e, gpt2)]
    return 2 if gpt2 else 1, [*attention, (inner, e, True), (e, inner, True)]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _pages(size_bytes: int) -> int:
    return _up(size_bytes, PAGE)
