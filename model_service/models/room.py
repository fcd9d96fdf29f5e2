"""Memory for weights: a mapping of its own for each tensor on the CPU, which goes back to the system with it.

What malloc gets back it keeps for others: of a float32 layer that int8 values were made of, of an unloaded model. The
system would not see it again, and the next model would not fit where the plan says it does.
"""

import math
import mmap

import torch
from torch import Tensor

MAPPED_BYTES = 1 << 16  # from here on; smaller tensors are not worth pages of their own


def room(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a new tensor; what is in it is not said. Raises MemoryError, or torch.OutOfMemoryError."""
    size_bytes = math.prod(sizes) * dtype.itemsize
    if device.type != "cpu" or size_bytes < MAPPED_BYTES:
        return torch.empty(sizes, dtype=dtype, device=device)
    try:
        mapping = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory left for {size_bytes:,} bytes") from error
    return torch.frombuffer(mapping, dtype=dtype).view(sizes)
