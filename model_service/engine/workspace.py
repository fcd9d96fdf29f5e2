"""What passes over a model take beside its weights and its cache: the planner counts it, a GPU's engine keeps it free.

An upper bound, from the tensors that a pass makes on its way; no torch here.
"""

from typing import Literal

from model_service.models.shape import Shape

Kind = Literal["gpu", "cpu"]

FIXED_BYTES: dict[Kind, int] = {"gpu": 192 << 20, "cpu": 32 << 20}  # libraries' workspaces, captured graphs, the rest
PROMPT_TOKENS = 1024  # read in one pass at most
ROWS = (1, 4, 16, 32)  # prompts that a captured pass may read at once, see captured_forward.py
ECHOED_TOKENS = 512  # of a prompt whose log-probabilities are asked for


def most_rows(num_slots: int) -> int:
    """Return how many rows the largest captured pass has: no more than sequences need."""
    return next((rows for rows in ROWS if rows >= num_slots), ROWS[-1])


def workspace_bytes(shape: Shape, itemsize: int, num_slots: int, kind: Kind = "gpu", *, last: bool = True) -> int:
    """Return the bytes for passes over a model or a part of it. last: whether the head is in it."""
    size = FIXED_BYTES[kind] + PROMPT_TOKENS * (8 * shape.n_embd + 2 * shape.inner_size) * itemsize
    if kind == "gpu":  # each row's keys and values of a layer, side by side
        size += most_rows(num_slots) * 2 * shape.n_positions * shape.n_embd * itemsize
    return size + (ECHOED_TOKENS * 2 * 4 * shape.vocab_size if last else 0)
