"""Linear layers by number format: float matrices, or int8 ones with a scale per output channel.

`Packed` is a float32 matrix in the order in which our kernels (native/src/dense.h) read it: to run, not to look at.
`Int8` is the pure-torch form, for machines without our kernels (model_service/native): weights int8, activations
float32. Each row is computed by itself, so a row's result is the same bits alone and in any batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.models.room import room
from model_service.native import library

INT8_MULTIPLE = 32  # torch's kernel reads whole tiles: other sizes are padded
INT8_ROWS = 128  # quantised at a time: a head has fifty thousand, and its float32 copies would not fit beside it


class Linear(Protocol):
    """A linear layer, read-only."""

    @property
    def bias(self) -> Tensor | None:
        """Its bias, (out,), if it has one."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (N, in) times the weight, plus the bias: (N, out)."""
        ...


@dataclass(frozen=True, slots=True)
class Affine:
    """A weight (out, in) with its bias (out,), if it has one."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (N, in) times the weight, plus the bias: (N, out)."""
        if x.is_cuda and x.shape[0] == 1 and self.bias is not None:
            # a compiler makes one kernel of a product with a single row and all that follows it
            return F.linear(x, self.weight) + self.bias
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Int8:
    """A weight as whole numbers from -127 to 127 times a scale per output channel. The bias stays float32."""

    values: Tensor  # (out, in) int8, both padded to whole tiles with zeros
    scales: Tensor  # (out,), padded
    bias: Tensor  # (out,), zeros if there is none

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (N, in) float32 times the weight, plus the bias: (N, out)."""
        x = F.pad(x, (0, self.values.shape[1] - x.shape[1]))
        y = torch._weight_int8pack_mm(x, self.values, self.scales)
        return y[:, : len(self.bias)] + self.bias


@dataclass(frozen=True, slots=True)
class Packed:
    """A float32 weight on the CPU, packed, with its bias (out,), if it has one."""

    packed: Tensor  # (out, in), in an order of its own
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (N, in) float32 times the weight, plus the bias: (N, out). A row is the same bits in any batch."""
        return library.dense(self.packed, self.bias, x)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return rows of the weight: (N, in) for indices (N,)."""
        return library.unpacked(self.packed, rows)


Form = Callable[[Linear], Linear]


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether linears of this kind run faster `Packed`: float32, and our kernels run here."""
    return dtype == torch.float32 and device.type == "cpu" and not library.why_not()


def to_packed(linear: Linear) -> Linear:
    """Pack a float32 layer, in its own memory: it is not to be used any more. What is no float layer stays as it is."""
    if not isinstance(linear, Affine):
        return linear
    weight = linear.weight.contiguous()
    library.pack(weight)
    return Packed(weight, linear.bias)


def to_int8(linear: Linear) -> Int8:
    """Quantise a float layer: the largest weight of each output channel becomes 127. An int8 one stays as it is."""
    if isinstance(linear, Int8):
        return linear
    assert isinstance(linear, Affine)
    (out, width), device = linear.weight.shape, linear.weight.device
    padded_out, padded_width = (size + -size % INT8_MULTIPLE for size in (out, width))
    values = room((padded_out, padded_width), torch.int8, device).zero_()
    scales = torch.zeros(padded_out, device=device)
    scratch = room((INT8_ROWS, width), torch.float32, device)
    for start in range(0, out, INT8_ROWS):
        rows = linear.weight[start : start + INT8_ROWS].float()
        part = scales[start : start + len(rows)] = torch.linalg.vector_norm(rows, torch.inf, dim=1) / 127
        torch.div(rows, part.clamp(min=1e-30)[:, None], out=scratch[: len(rows)])
        values[start : start + len(rows), :width] = scratch[: len(rows)].round_()
    bias = torch.zeros(out, device=device) if linear.bias is None else linear.bias.float()
    return Int8(values, scales, bias)
