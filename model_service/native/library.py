"""Finds and calls the compiled kernels (src/interface.cpp). Where there are none, torch does the work, slower.

The package builds them when it is installed with a C++ compiler at hand; the processor must have AVX512-VNNI.
"""

import ctypes
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_size_t, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

NAME = "_kernels"
INTERFACE = 6  # grows with every change of what follows, as in interface.cpp
PANEL = 48  # `kPanel` in dense.h
ALIGNED = 64  # bytes of a cache line
PHASES = ("norms, quantising", "qkv", "attention", "proj", "up, activation", "down", "head")  # `Phase` in model.h
ACTIVATIONS = {"gelu_new": 0, "gelu_pytorch_tanh": 0, "gelu_fast": 0, "gelu": 1, "relu": 2, "silu": 3}


class Shape(Structure):
    """The numbers that decide what is computed; `Shape` in model.h."""

    _fields_ = (
        ("vocab_size", c_int32),
        ("n_positions", c_int32),
        ("n_embd", c_int32),
        ("n_layer", c_int32),
        ("n_head", c_int32),
        ("n_inner", c_int32),
        ("activation", c_int32),
        ("epsilon", c_float),
    )


class Tokens(Structure):
    """Tokens of one slot, from position `start`, and the handle of their adapter or None; `Chunk` in model.h."""

    _fields_ = (("slot", c_int32), ("start", c_int32), ("count", c_int32), ("adapter", c_void_p))


class Draw(Structure):
    """How a row's token is drawn; `Draw` in draw.h. top_k 0, top_p 1 and min_p 0 are off, temperature 0 is greedy."""

    _fields_ = (
        ("seed", c_uint64),
        ("position", c_uint64),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("top_k", c_int32),
    )


def _done(ok: int) -> None:
    """Raise MemoryError for what a function returns when it found no room; ctypes calls it with the result."""
    if not ok:
        raise MemoryError("no memory left for the kernels")


_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "supported": (c_int, []),
    "new_team": (c_void_p, [c_int]),
    "new": (c_void_p, [POINTER(Shape), c_int, c_void_p]),
    "draw": (None, [c_void_p, c_void_p, c_int, c_int, POINTER(Draw), c_void_p]),
    "uniform": (c_double, [c_uint64, c_uint64]),
    "delete": (None, [c_void_p]),
    "set_norm": (_done, [c_void_p, c_int, c_int, c_void_p, c_void_p]),
    "set_linear": (_done, [c_void_p, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_int, c_int]),
    "set_scale": (None, [c_void_p, c_int, c_float]),
    "set_embedding": (_done, [c_void_p, c_int, c_void_p, c_int, c_int]),
    "size_bytes": (c_size_t, [c_void_p]),
    "hidden": (_done, [c_void_p, c_void_p, POINTER(Tokens), c_int, c_void_p]),
    "logits": (_done, [c_void_p, c_void_p, c_int, c_void_p]),
    "seconds": (None, [c_void_p, c_void_p]),
    "low_rank_size": (c_size_t, [c_int, c_int, c_int]),
    "new_adapter": (c_void_p, [c_int, c_size_t]),
    "delete_adapter": (None, [c_void_p]),
    "set_low_rank": (_done, [c_void_p, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_int]),
    "pack_dense": (_done, [c_void_p, c_int, c_int]),
    "dense": (_done, [c_void_p, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int, c_void_p]),
    "swap": (None, [c_void_p, c_int, c_int]),
    "copy": (None, [c_void_p, c_int, c_int, c_int]),
}


class Unavailable(Exception):
    """The kernels cannot run here; the message says why."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """Load the kernels. Raises Unavailable."""
    files = sorted(Path(__file__).parent.glob(f"{NAME}*.so"))
    if not files:
        raise Unavailable("the int8 kernels are not built: install a C++ compiler (g++) and reinstall punchline")
    try:
        loaded = ctypes.CDLL(str(files[0]))
    except OSError as error:
        raise Unavailable(f"the int8 kernels do not load: {error}") from error
    if getattr(loaded, f"punchline_interface_{INTERFACE}", None) is None:
        raise Unavailable("the int8 kernels were built from other sources: make install builds them again")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, f"punchline_{name}")
        function.restype, function.argtypes = result, arguments
    if not loaded.punchline_supported():
        raise Unavailable("the int8 kernels need a processor with AVX512-VNNI")
    return loaded


@lru_cache(maxsize=1)
def why_not() -> str:
    """Say why the kernels cannot run here; empty if they can."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return ""


@lru_cache(maxsize=8)
def team(num_threads: int) -> c_void_p:
    """Return the threads that all models and draws of the process share; they sleep when there is nothing to do."""
    made = library().punchline_new_team(num_threads)
    if not made:
        raise OSError(f"the system has no {num_threads} threads left")
    return c_void_p(made)


def draw(logits: Tensor, draws: Seq[tuple[int, int, float, float, float, int]]) -> list[int]:
    """Draw a token id for each row of logits (B, V) float32, contiguous; -1 where a row's numbers broke.

    draws: the fields of `Draw`, for each row.
    """
    rows, vocab_size = logits.shape
    token_ids = (c_int32 * rows)()
    how = (Draw * rows)(*(Draw(*d) for d in draws))
    library().punchline_draw(team(torch.get_num_threads()), logits.data_ptr(), rows, vocab_size, how, token_ids)
    return list(token_ids)


def pack(weight: Tensor) -> None:
    """Bring a weight (out, in), float32 and contiguous, into the order in which `dense` reads it. In its place."""
    assert weight.dtype == torch.float32
    assert weight.is_cpu
    assert weight.is_contiguous()
    assert weight.data_ptr() % ALIGNED == 0
    out, width = weight.shape
    library().punchline_pack_dense(weight.data_ptr(), out, width)


def unpacked(weight: Tensor, rows: Tensor) -> Tensor:
    """Return rows (N,) of a weight as they were before `pack`: (N, in)."""
    out, width = weight.shape
    panel = rows // PANEL * PANEL
    wide = (out - panel).clamp(max=PANEL)  # the last panel may be narrower
    at = (panel * width + rows - panel)[:, None] + wide[:, None] * torch.arange(width)
    return weight.view(-1)[at]


def dense(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return x (N, in) float32 times a weight after `pack`, plus the bias (out,): (N, out)."""
    x = x.contiguous()
    y, (out, width) = torch.empty(x.shape[0], len(weight)), weight.shape
    at = None if bias is None else bias.data_ptr()
    threads = team(torch.get_num_threads())
    library().punchline_dense(threads, weight.data_ptr(), at, out, width, x.data_ptr(), len(x), y.data_ptr())
    return y


class NativeModel:
    """A GPT-2 in the kernels' own memory, with its cache. One call at a time; calls let go of Python's lock."""

    def __init__(self, shape: Shape, num_slots: int, num_threads: int) -> None:
        self._library = library()
        self.shape = shape
        self._logits = torch.empty(0, shape.vocab_size)
        self._model = self._library.punchline_new(ctypes.byref(shape), num_slots, team(num_threads))
        if not self._model:
            raise MemoryError(f"no room for a cache of {num_slots} slots of {shape.n_positions} tokens")

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.punchline_delete(self._model)
            self._model = None

    def set_norm(self, layer: int, which: int, weight: Tensor, bias: Tensor) -> None:
        """Take ln_1 (0) or ln_2 (1) of a layer, or ln_f (layer n_layer). weight, bias: (E,)."""
        weight, bias = _floats(weight), _floats(bias)
        self._library.punchline_set_norm(self._model, layer, which, weight.data_ptr(), bias.data_ptr())

    def set_linear(self, layer: int, which: int, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise qkv (0), proj (1), up (2) or down (3) of a layer. weight: (out, in)."""
        weight, bias = _floats(weight), None if bias is None else _floats(bias)
        at = None if bias is None else bias.data_ptr()
        out, width = weight.shape
        self._library.punchline_set_linear(self._model, layer, which, weight.data_ptr(), at, out, width, 0, out)

    def set_head(self, pieces: Iterable[Tensor]) -> None:
        """Quantise the head, (V, E), which comes in pieces of some rows (n, E), in order."""
        layer, out, first = self.shape.n_layer, self.shape.vocab_size, 0
        for piece in pieces:
            rows = _floats(piece)
            at, (count, width) = rows.data_ptr(), rows.shape
            self._library.punchline_set_linear(self._model, layer, 0, at, None, out, width, first, count)
            first += count
        assert first == out, f"a head of {first} rows"

    def set_scale(self, layer: int, scale: float) -> None:
        """Take what a layer's attention scores are multiplied by."""
        self._library.punchline_set_scale(self._model, layer, scale)

    def set_embedding(self, which: int, pieces: Iterable[Tensor]) -> None:
        """Take wte (0) or wpe (1) in pieces of some rows (n, E), in order; kept in half precision."""
        first = 0
        for piece in pieces:
            rows = _floats(piece)
            self._library.punchline_set_embedding(self._model, which, rows.data_ptr(), first, len(rows))
            first += len(rows)
        assert first == (self.shape.n_positions if which else self.shape.vocab_size), f"a table of {first} rows"

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return int(self._library.punchline_size_bytes(self._model))

    def hidden(self, ids: Tensor, tokens: Seq[tuple[int, int, int, int | None]]) -> Tensor:
        """Run all layers. ids: (N,) int64; tokens: see `Tokens`, one a chunk. Returns (N, E) float32."""
        out = torch.empty(len(ids), self.shape.n_embd)
        chunks = (Tokens * len(tokens))(*(Tokens(*t) for t in tokens))
        self._library.punchline_hidden(self._model, ids.data_ptr(), chunks, len(tokens), out.data_ptr())
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (B, V) float32 for hidden (B, E) float32, good until the next call."""
        hidden = hidden.contiguous()
        if len(hidden) > len(self._logits):
            self._logits = torch.empty(len(hidden), self.shape.vocab_size)  # new memory each step costs a millisecond
        out = self._logits[: len(hidden)]
        self._library.punchline_logits(self._model, hidden.data_ptr(), len(hidden), out.data_ptr())
        return out

    def seconds(self) -> dict[str, float]:
        """Return how long each phase has taken in all, since the model was made."""
        out = (c_double * len(PHASES))()
        self._library.punchline_seconds(self._model, out)
        return dict(zip(PHASES, out, strict=True))

    def swap(self, a: int, b: int) -> None:
        """Let two slots trade their content."""
        self._library.punchline_swap(self._model, a, b)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another."""
        self._library.punchline_copy(self._model, source, target, length)


class NativeAdapter:
    """A LoRA adapter in the kernels' own memory. matrices: (layer, which, a (r, in), b (r, out)), in half precision."""

    def __init__(self, n_layer: int, matrices: Seq[tuple[int, int, Tensor, Tensor]]) -> None:
        self._library = library()
        sizes = [(a.shape[0], a.shape[1], b.shape[1]) for _, _, a, b in matrices]
        room = sum(self._library.punchline_low_rank_size(*size) for size in sizes)
        self.handle = self._library.punchline_new_adapter(n_layer, room)
        if not self.handle:
            raise MemoryError("no memory left for an adapter")
        for (layer, which, a, b), size in zip(matrices, sizes, strict=True):
            a, b = _floats(a), _floats(b)
            self._library.punchline_set_low_rank(self.handle, layer, which, a.data_ptr(), b.data_ptr(), *size)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.punchline_delete_adapter(self.handle)


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()
