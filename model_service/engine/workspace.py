"""What passes over a model take beside its weights and its cache: the planner counts it, a GPU's engine keeps it free.

An upper bound, from the tensors that a pass makes on its way; no torch here.
"""

from typing import Literal

from model_service.models.shape import Shape

Kind = Literal["gpu", "cpu"]

FIXED_BYTES: dict[Kind, int] = {"gpu": 192 << 20, "cpu": 32 << 20}  # libraries' workspaces, captured graphs, the rest
PROMPT_TOKENS = 1024  # read in one pass at most
GATHERED_ROWS = 32  # prompts whose keys and values a captured pass gathers, see captured_forward.py
ECHOED_TOKENS = 512  # of a prompt whose log-probabilities are asked for


def workspace_bytes(shape: Shape, itemsize: int, kind: Kind = "gpu", *, last: bool = True) -> int:
    """Return the bytes for passes over a model or a part of it. last: whether the head is in it."""
    size = FIXED_BYTES[kind] + PROMPT_TOKENS * (8 * shape.n_embd + 2 * shape.inner_size) * itemsize
    if kind == "gpu":
        size += GATHERED_ROWS * 2 * shape.n_positions * shape.n_embd * itemsize
    return size + (ECHOED_TOKENS * 2 * 4 * shape.vocab_size if last else 0)
