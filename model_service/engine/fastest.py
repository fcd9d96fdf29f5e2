"""Which number format runs fastest on this CPU, measured: one layer of the model, alone and with eight rows."""

import logging
import statistics
import time
from dataclasses import replace
from functools import lru_cache

import torch

from model_service.engine.forward import Forward, TorchForward
from model_service.engine.native_forward import NativeForward
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.decoder import Decoder, decoder
from model_service.models.gpt2 import GPT2
from model_service.models.layout import tensor_sizes
from model_service.models.linear import can_pack, to_packed
from model_service.models.loading import DTYPES
from model_service.models.shape import Shape
from model_service.native.library import why_not

log = logging.getLogger(__name__)

CANDIDATES = ("int8", "bfloat16", "float32")
ROUNDS = 4
ROWS = (1, 8)
VOCAB = 512  # the head is a linear like the others: a small one stands for it


def cpu_forward(model: Decoder, weights: str, num_slots: int) -> Forward:
    """Return what runs a model on the CPU: our kernels for int8 where they run, else torch."""
    if can_pack(DTYPES.get(weights, torch.int8), model.device):
        return TorchForward(model.formed(to_packed), num_slots)
    if weights != "int8":
        return TorchForward(model, num_slots)
    if int8_in_torch(model.shape):
        return TorchForward(model.quantised(), num_slots)
    assert isinstance(model, GPT2)
    return NativeForward(model, num_slots)


def int8_in_torch(shape: Shape) -> bool:
    """Whether int8 weights of this shape run in torch, because our kernels cannot run them; the log says why."""
    reason = why_not() or shape.why_not_native
    if reason:
        log.info("int8 runs in torch, which is slower: %s", reason)
    return bool(reason)


def fastest_weights(shape: Shape, candidates: tuple[str, ...] = CANDIDATES) -> str:
    """Return the number format to prefer for models of this shape. Measured once a kind of layer; that is kept."""
    one_layer = replace(shape, vocab_size=VOCAB, n_positions=64, n_layer=1)
    return _fastest(one_layer, torch.get_num_threads(), candidates)


@lru_cache(maxsize=16)
def _fastest(shape: Shape, num_threads: int, candidates: tuple[str, ...]) -> str:
    forwards = {w: cpu_forward(_flat(shape, DTYPES.get(w, torch.float32)), w, max(ROWS)) for w in candidates}
    taken_s = {
        weights: [min(_step_s(forward, rows) for _ in range(ROUNDS)) for rows in ROWS]
        for weights, forward in forwards.items()
    }
    return min(candidates, key=lambda weights: statistics.geometric_mean(taken_s[weights]))


def _flat(shape: Shape, dtype: torch.dtype) -> Decoder:
    """Return a model all of whose weights are the same number: what they are does not change the time."""
    return decoder(shape, {name: torch.full(size, 0.01, dtype=dtype) for name, size in tensor_sizes(shape).items()})


@torch.inference_mode()
def _step_s(forward: Forward, rows: int) -> float:
    """Return the seconds of one step of `rows` sequences."""
    chunks = []
    for slot in range(rows):
        sequence = Sequence(slot, [1], SamplingParams(), seed=0)
        sequence.slot = slot
        chunks.append(Chunk(sequence, 0, 1))
    started = time.perf_counter()
    forward.logits(forward.hidden(chunks))
    return time.perf_counter() - started
