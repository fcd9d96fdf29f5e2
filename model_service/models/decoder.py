"""What runs text: a model of any architecture that is known here, whole or a part. Made by `decoder`.

Those who run a model need this surface and nothing of its architecture.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from model_service.models.gpt2 import GPT2
from model_service.models.gptj import GPTJ
from model_service.models.layers import Adapt, Attend, Block, LayerParts
from model_service.models.linear import Form
from model_service.models.shape import GPT2Shape, GPTJShape, Shape


class Decoder(Protocol):
    """A model, read-only: all layers or some, with the embeddings if the first, with norm and head if the last."""

    @property
    def shape(self) -> Shape:
        """The sizes of the whole model."""
        ...

    @property
    def layers(self) -> range:
        """Which of the model's layers these are."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether it begins with the embeddings, and so takes ids."""
        ...

    @property
    def is_last(self) -> bool:
        """Whether it ends with the norm and the head."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What the norms, the embeddings and hidden states are held in."""
        ...

    @property
    def size_bytes(self) -> int:
        """What the weights take, tied ones once."""
        ...

    def hidden(self, x: Tensor, position_ids: Tensor, attend: Attend, adapt: Adapt | None = None) -> Tensor:
        """Run all its layers. position_ids: (N,) int64. Returns (N, E), after the final norm if it is the last part.

        x: input ids (N,) int64 for the first part, what the part before returned (N, E) for the others.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (N, V) float32 for hidden (N, E); of the last part."""
        ...

    def quantised(self) -> Self:
        """Return the same model with int8 linears, in pure torch; embeddings and norms are shared."""
        ...

    def formed(self, form: Form) -> Self:
        """Return the same model with its linears in another form; the rest is shared."""
        ...

    # what `hidden` is made of, for passes that are captured (engine/decode_step.py)

    @property
    def blocks(self) -> Sequence[Block]:
        """The weights of `layers`."""
        ...

    @property
    def parts(self) -> LayerParts:
        """What a layer does before and after its attention; the same functions for models of one shape."""
        ...

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return (N, E) for ids (N,) at positions (N,); of the first part."""
        ...

    def rotation(self, position_ids: Tensor) -> Tensor | None:
        """Return what `parts.before` needs of the positions (N,), once a pass."""
        ...

    def finish(self, x: Tensor) -> Tensor:
        """Return what a part hands on, (N, E): after the final norm if it is the last."""
        ...


def decoder(
    shape: Shape, tensors: Mapping[str, Tensor], layers: range | None = None, form: Form | None = None
) -> Decoder:
    """Make a model of its tensors, or a part of it: contiguous layers, all by default.

    tensors: by transformers' names, without the `transformer.` prefix, Conv1D matrices turned to (out, in). Each is
    asked for once, layer by layer, so it may be read as it is asked for. Raises KeyError with what is missing.
    form: as `formed`, without ever holding more than a layer in the form before.
    """
    if isinstance(shape, GPTJShape):
        model: Decoder = GPTJ(shape, tensors, layers, form)
    else:
        assert isinstance(shape, GPT2Shape)
        model = GPT2(shape, tensors, layers, form)
    return model.formed(form) if form else model
