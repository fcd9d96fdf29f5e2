"""Makes an engine or a classifier from a checkpoint. Blocks for as long as that takes: call it in a thread."""

from collections.abc import Mapping
from typing import Literal

import torch

from model_service.engine.captured_forward import CapturedForward
from model_service.engine.classifier import Classifier
from model_service.engine.engine import Engine
from model_service.engine.engine_config import EngineConfig
from model_service.engine.fastest import cpu_forward, fastest_weights
from model_service.engine.flights import InTurn
from model_service.engine.forward import Forward
from model_service.engine.gpu import MIN_PREFILL_TOKENS, fitting_slots, gpu_forward, gpu_runner
from model_service.engine.prefill_budget import LEAST_TOKENS
from model_service.engine.runner import ModelRunner, Runner
from model_service.models.loading import Checkpoint, CheckpointError, read_checkpoint, read_shape


def load(
    source: str,
    task: Literal["generate", "classify"],
    *,
    model_id: str,
    weights: str = "auto",
    device: str = "auto",
    max_num_seqs: int = 16,
    max_queue: int = 256,
    shares: Mapping[str, float] | None = None,
) -> Engine | Classifier:
    """Load a model for its task. `auto` is the first GPU, or the CPU. Raises CheckpointError with the reason."""
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if weights == "auto":
        weights = best_weights(source, task, device)
    checkpoint = read_checkpoint(source, weights=weights, device=device)
    if task == "classify":
        return _classifier(checkpoint, source, model_id)
    model = checkpoint.model
    if model.device.type == "cuda":
        max_num_seqs = fitting_slots(model, max_num_seqs)
    forward = forward_for(checkpoint, max_num_seqs)
    config = EngineConfig(
        model_id=model_id,
        context_len=model.shape.n_positions,
        vocab_size=model.shape.vocab_size,
        eos_token_id=checkpoint.eos_token_id,
        max_num_seqs=max_num_seqs,
        max_queue=max_queue,
        weights=checkpoint.weights,
        device_map=((f"layers 0-{model.shape.n_layer - 1}", str(model.device)),),
        size_bytes=forward.size_bytes,
        shares=shares or {},
        min_prefill_tokens=MIN_PREFILL_TOKENS if model.device.type == "cuda" else LEAST_TOKENS,
    )
    try:
        return Engine(config, InTurn(runner_for(forward)), checkpoint.tokenizer)
    except ValueError as error:
        raise CheckpointError(f"{source} cannot run: {error}.") from error


def best_weights(source: str, task: Literal["generate", "classify"], device: str) -> str:
    """Return the number format that `auto` stands for: FP16 on a GPU, on a CPU whatever measures fastest."""
    if torch.device(device).type == "cuda":
        return "float16"
    return fastest_weights(read_shape(source)) if task == "generate" else "float32"


def forward_for(checkpoint: Checkpoint, num_slots: int) -> Forward:
    """Return what runs a checkpoint's language model, with an empty cache of that many slots."""
    if checkpoint.model.device.type == "cpu":
        return cpu_forward(checkpoint.model, checkpoint.weights, num_slots)
    return gpu_forward(checkpoint.model, num_slots)


def runner_for(forward: Forward) -> Runner:
    """Return what draws from a forward pass: in captured steps on a GPU."""
    return gpu_runner(forward) if isinstance(forward, CapturedForward) else ModelRunner(forward)


def _classifier(checkpoint: Checkpoint, source: str, model_id: str) -> Classifier:
    score = checkpoint.tensors.get("score.weight")
    if score is None:
        raise CheckpointError(f"{source} has no score.weight: it is no sequence classifier.")
    names = checkpoint.config.get("id2label") or {}
    labels = [str(names.get(str(i), f"LABEL_{i}")) for i in range(score.shape[0])]
    model = checkpoint.model.quantised() if checkpoint.weights == "int8" else checkpoint.model
    return Classifier(model_id, model, score, checkpoint.tokenizer, labels, checkpoint.weights, model.size_bytes)
