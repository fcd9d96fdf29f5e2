"""Makes the runner of a model on a GPU: exact sums, slots that fit the memory, the faster layers, graphs ahead of time.

Number formats, decided here and nowhere else:
- FP16 and BF16 products are summed in float32 to the end. cuBLAS may otherwise round partial sums to 16 bits, which
  makes a token depend on how it happens to split a product. Decoding waits for memory, not for sums.
- float32 products use float32, not TF32 (10 bits of mantissa): there, greedy tokens equal transformers' on a CPU.
- Norms, softmax, logits and draws are float32 in all formats, sums of probabilities float64.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any

import torch
import torch._inductor.config as inductor

from model_service.engine.captured_forward import CapturedForward
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import CudaGraphs
from model_service.engine.workspace import workspace_bytes
from model_service.models.decoder import Decoder
from model_service.models.layers import LayerParts
from model_service.models.loading import CheckpointError
from model_service.models.shape import Shape

log = logging.getLogger(__name__)

DRAW_BYTES = 48  # per slot and token of the vocabulary: logits, weights, sums and their sorted head
MIN_PREFILL_TOKENS = 256  # fewer take as long: a pass waits for the weights and for its launches, not for arithmetic
COMPILED_BATCH = 1  # a product with one row compiles to a kernel with all that follows it; larger ones are cuBLAS's

COMPILED_BYTES = 200e6  # of weights, about GPT-2 small's in FP16; for less, nobody should wait for a compiler


def gpu_forward(model: Decoder, num_slots: int) -> CapturedForward:
    """Return what runs a model, or a part of one, on its GPU. Ask `fitting_slots` first.

    A part is ready with it, its passes captured, which takes seconds; a whole model wants a `gpu_runner`.
    """
    use_exact_sums()
    forward = CapturedForward(model, num_slots, CudaGraphs(model.device))
    if not (model.is_first and model.is_last):
        forward.warm_up()
    return forward


def gpu_runner(forward: CapturedForward) -> GraphRunner:
    """Return a runner on the forward's GPU, all its steps and passes captured; blocks for seconds."""
    parts = forward.model.parts
    runner = GraphRunner(forward, forward.graphs)
    if forward.size_bytes >= COMPILED_BYTES:
        choose_parts(runner, parts, compiled_parts(parts))
    forward.warm_up()
    runner.warm_up()
    return runner


def use_exact_sums() -> None:
    """Let this process multiply as the module says."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.set_float32_matmul_precision("highest")


def compiled_parts(plain: LayerParts, backend: str | Callable[..., Any] = "inductor") -> LayerParts:
    """Return a layer's parts as torch.compile makes them, at their first call; one pair serves all layers.

    Coordinate descent tuning is what turns a product with one row into a reduction that the rest is fused with.
    """
    if backend == "inductor":
        inductor.compile_threads = 1  # a few small kernels; its pool of processes would stay for good
        compiler = partial(torch.compile, fullgraph=True, dynamic=False, options={"coordinate_descent_tuning": True})
    else:
        compiler = partial(torch.compile, fullgraph=True, dynamic=False, backend=backend)
    return LayerParts(compiler(plain.before), compiler(plain.after))


def choose_parts(runner: GraphRunner, plain: LayerParts, compiled: LayerParts) -> None:
    """Let single sequences run on whichever parts are faster here. What cannot be compiled is said and done without."""
    plain_s = runner.use_parts(COMPILED_BATCH, plain)
    try:
        compiled_s = runner.use_parts(COMPILED_BATCH, compiled)
    except Exception as error:  # no C compiler, no Triton for this device, …: compilers fail in their own ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("layers cannot be compiled here, single sequences stay slower: %s", reason)
        compiled_s = float("inf")
    if compiled_s >= plain_s:
        runner.use_parts(COMPILED_BATCH, plain)
    log.info("a step of one sequence: plain %.3f ms, compiled %.3f ms", plain_s * 1e3, compiled_s * 1e3)


def fitting_slots(parts: Seq[Decoder], wanted: int) -> int:
    """Return how many of the wanted slots fit the free memory of a GPU that has these parts of a model.

    Raises CheckpointError if none does.
    """
    model, num_layers = parts[0], sum(len(part.layers) for part in parts)
    free, total = torch.cuda.mem_get_info(model.device)
    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return slots_within(free + unused, model.shape, model.dtype.itemsize, wanted, total, num_layers)


def slots_within(
    free_bytes: int, shape: Shape, itemsize: int, wanted: int, total_bytes: int, num_layers: int | None = None
) -> int:
    """Return at most `wanted`, so that the slots and what steps need fit; says so if it is less.

    num_layers: of the model's that are on this GPU; all by default. GPT-2 XL in FP16 keeps 315 MB of keys and values in
    a slot of 1,024 tokens.
    """
    cache = 2 * (num_layers or shape.n_layer) * shape.n_positions * shape.n_embd * itemsize
    slot = cache + DRAW_BYTES * shape.vocab_size
    slots = wanted
    while slots and workspace_bytes(shape, itemsize, slots) + slots * slot > free_bytes:
        slots -= 1
    numbers = f"{slot / 1e6:,.0f} MB each, {free_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB are free"
    if not slots:
        raise CheckpointError(f"The GPU has no memory left for a sequence of {shape.n_positions} tokens: {numbers}.")
    if slots < wanted:
        log.warning("%d sequences at a time instead of %d: %s", slots, wanted, numbers)
    return slots
