"""Tells a lack of memory from other errors: every layer says it in its own way."""

import torch

SAYS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "cuda out of memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller tensors would have helped."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAYS)
