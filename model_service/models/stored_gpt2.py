"""A GPT-2 that is still on disk, for who copies it: a layer at a time, and big tables some rows at a time."""

from collections.abc import Iterator

from torch import Tensor

from model_service.models.gpt2 import read_block
from model_service.models.layers import Block, Norm, norm_of
from model_service.models.shape import GPT2Shape
from model_service.models.stored import Reading


class StoredGPT2:
    """What a `GPT2` has, as far as the kernels take it; nothing that was read is kept."""

    def __init__(self, shape: GPT2Shape, tensors: Reading) -> None:
        """tensors: in float32 on the CPU. Raises KeyError if there is no head."""
        self.shape = shape
        self.blocks = StoredBlocks(tensors)
        self.wte, self.wpe = StoredRows(tensors, "wte.weight"), StoredRows(tensors, "wpe.weight")
        self.head = StoredRows(tensors, "lm_head.weight") if "lm_head.weight" in tensors else self.wte
        self._tensors = tensors

    @property
    def ln_f(self) -> Norm:
        """The final norm."""
        return norm_of(self._tensors, "ln_f")


class StoredBlocks:
    """Layers by number, each read when it is asked for."""

    def __init__(self, tensors: Reading) -> None:
        self._tensors = tensors

    def __getitem__(self, layer: int) -> Block:
        """Read a layer."""
        return read_block(self._tensors, f"h.{layer}.")


class StoredRows:
    """A table (rows, E)."""

    def __init__(self, tensors: Reading, name: str) -> None:
        self._tensors, self._name = tensors, name

    def split(self, rows: int) -> Iterator[Tensor]:
        """Read some rows at a time, as many as reading goes by; each piece is good until the next."""
        return self._tensors.rows(self._name)
