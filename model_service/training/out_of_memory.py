"""Does with less memory what did not fit: fewer rows at a time. Tells a lack of memory from other errors.

Every layer says it in its own way.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

Found = TypeVar("Found")
SAYS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "cuda out of memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller tensors would have helped."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAYS)


class TooLarge(Exception):
    """Not even a single row fits."""


class RowLimit:
    """How many rows go through a model at a time; halved when memory runs out."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def within(self, work: Callable[[int], Found], num_rows: int, halved: Callable[[], None]) -> Found:
        """Do work on so many rows at a time; with too little memory, again on half as many. Raises TooLarge.

        halved: told each time, to let go of what the failed try left.
        """
        while True:
            max_rows = max(1, min(self.limit, num_rows))
            try:
                return work(max_rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if max_rows == 1:
                    raise TooLarge from error
            self.limit = max_rows // 2  # outside of the handler, whose traceback holds on to the tensors
            halved()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
