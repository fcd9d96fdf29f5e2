"""Makes an engine or a classifier from a checkpoint. Blocks for as long as that takes: call it in a thread.

A model goes whole to one device, or in stages to several; each stage is read by itself, straight to where it will be.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch

from model_service.engine.captured_forward import CapturedForward
from model_service.engine.classifier import Classifier
from model_service.engine.engine import Engine
from model_service.engine.engine_config import EngineConfig, Stage
from model_service.engine.fastest import fastest_weights, int8_in_torch
from model_service.engine.flights import Flights, InTurn
from model_service.engine.forward import Forward, TorchForward
from model_service.engine.gpu import MIN_PREFILL_TOKENS, fitting_slots, gpu_forward, gpu_runner
from model_service.engine.native_forward import NativeForward
from model_service.engine.pipeline import Pipeline, pipelined
from model_service.engine.prefill_budget import LEAST_TOKENS
from model_service.engine.runner import ModelRunner, Runner
from model_service.engine.stage_process import ProcessStages, share_cores
from model_service.engine.stage_wire import Part
from model_service.models.loading import CheckpointError, OpenCheckpoint, check_weights, open_checkpoint
from model_service.models.shape import Shape
from model_service.models.stored import Progress, counted

Count = Callable[[int], None]


def load(
    source: str,
    task: Literal["generate", "classify"],
    *,
    model_id: str,
    weights: str = "auto",
    stages: tuple[Stage, ...] | None = None,
    device: str = "auto",
    max_num_seqs: int = 16,
    max_queue: int = 256,
    shares: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Engine | Classifier:
    """Load a model for its task. Raises CheckpointError with the reason.

    stages: which layers on which device; without them the whole model goes to `device`, the first GPU or the CPU.
    progress: called on this thread with how many bytes of the files were read, and how many will be.
    """
    opened = open_checkpoint(source)
    stages = stages or whole(opened.shape, device)
    check_stages(stages, opened.shape.n_layer)
    if weights == "auto":
        weights = best_weights(opened.shape, task, stages)
    for stage in stages:
        check_weights(weights, torch.device(stage.device))
    opened.files.check(range(opened.shape.n_layer))  # all of it, before the first stage is read
    count = counted(progress, sum(opened.files.size_bytes(stage.layers) for stage in stages))
    if task == "classify":
        return _classifier(opened, source, model_id, weights, stages, count)
    if len(stages) == 1:
        flights, max_num_seqs, size_bytes = _in_turn(opened, weights, stages[0].device, max_num_seqs, count)
    elif any(on_gpu(stage) for stage in stages):
        flights, max_num_seqs, size_bytes = _in_stages(opened, weights, stages, max_num_seqs, count)
    else:
        flights, size_bytes = _in_processes(opened, weights, stages, max_num_seqs, count)
    config = EngineConfig(
        model_id=model_id,
        context_len=opened.shape.n_positions,
        vocab_size=opened.shape.vocab_size,
        eos_token_id=opened.eos_token_id,
        max_num_seqs=max_num_seqs,
        max_queue=max_queue,
        weights=weights,
        device_map=device_map(stages),
        size_bytes=size_bytes,
        shares=shares or {},
        min_prefill_tokens=MIN_PREFILL_TOKENS if any(on_gpu(stage) for stage in stages) else LEAST_TOKENS,
    )
    try:
        return Engine(config, flights, opened.tokenizer)
    except ValueError as error:
        flights.close()
        raise CheckpointError(f"{source} cannot run: {error}.") from error


def whole(shape: Shape, device: str = "auto") -> tuple[Stage, ...]:
    """Return the placement of a model that is not split. `auto` is the first GPU, or the CPU."""
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return (Stage(device, range(shape.n_layer)),)


def check_stages(stages: tuple[Stage, ...], num_layers: int) -> None:
    """Raise CheckpointError for devices that are not there, and for stages that are not the whole model in order."""
    for stage in stages:
        check_device(stage.device)
    following = [0, *(stage.layers.stop for stage in stages)]
    gaps = any(not s.layers or s.layers.start != at for s, at in zip(stages, following, strict=False))
    if gaps or following[-1] != num_layers:
        placed = ", ".join(f"{layers} on {device}" for layers, device in device_map(stages))
        raise CheckpointError(f"{placed}: these are not the model's layers 0-{num_layers - 1}, in order, each once.")


def check_device(name: str) -> None:
    """Raise CheckpointError for a device that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CheckpointError(f"{name!r} is no device; devices are cuda:0, cuda:1, … and cpu.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise CheckpointError(f"There is no {name} here: torch sees {there or 'no'} GPU{'s' if there != 1 else ''}.")
    if device.type not in ("cpu", "cuda"):
        raise CheckpointError(f"Nothing runs on {name!r} here; devices are cuda:0, cuda:1, … and cpu.")


def on_gpu(stage: Stage) -> bool:
    """Whether a stage is on a GPU."""
    return torch.device(stage.device).type == "cuda"


def device_map(stages: tuple[Stage, ...]) -> tuple[tuple[str, str], ...]:
    """Say which layers are on which device, both ends included."""
    return tuple((f"layers {stage.layers.start}-{stage.layers.stop - 1}", stage.device) for stage in stages)


def best_weights(shape: Shape, task: Literal["generate", "classify"], stages: tuple[Stage, ...]) -> str:
    """Return the number format that `auto` stands for: FP16 on a GPU, on a CPU whatever measures fastest."""
    if any(on_gpu(stage) for stage in stages):
        return "float16"
    if task == "classify":
        return "float32"
    if len(stages) > 1:  # our int8 kernels run whole models
        return fastest_weights(shape, ("bfloat16", "float32"))
    return fastest_weights(shape)


def weights_on(stage: Stage, weights: str, stages: tuple[Stage, ...]) -> str:
    """Return the number format of one stage: where others are on a GPU in FP16, a stage on the CPU is in BF16.

    It takes the same bytes, so that the plan stays true, and processors multiply it; most have to convert each FP16
    number first (GPT-2 small: 6 tokens/s in FP16, 40 in BF16). float32 would be more exact, but reads twice the bytes,
    and what is left to a CPU is what waits for memory.
    """
    mixed = any(on_gpu(s) for s in stages) and not on_gpu(stage)
    return "bfloat16" if mixed and weights == "float16" else weights


def forward_for(
    opened: OpenCheckpoint, weights: str, device: str, num_slots: int, count: Count | None = None
) -> Forward:
    """Read a whole model, and return what runs it, with an empty cache of that many slots. Raises CheckpointError."""
    if torch.device(device).type == "cuda":
        return gpu_forward(opened.read(weights, device, count=count), num_slots)
    if weights == "int8" and not int8_in_torch(opened.shape):
        return NativeForward(opened.stored_gpt2(count), num_slots)
    return TorchForward(opened.read(weights, device, count=count, to_run=True), num_slots)


def runner_for(forward: Forward) -> Runner:
    """Return what draws from a forward pass: in captured steps on a GPU."""
    return gpu_runner(forward) if isinstance(forward, CapturedForward) else ModelRunner(forward)


def _in_turn(
    opened: OpenCheckpoint, weights: str, device: str, num_slots: int, count: Count
) -> tuple[Flights, int, int]:
    """Return a whole model at work, its slots and its bytes."""
    if torch.device(device).type == "cuda":
        model = opened.read(weights, device, count=count)
        num_slots = fitting_slots([model], num_slots)
        forward: Forward = gpu_forward(model, num_slots)
    else:
        forward = forward_for(opened, weights, device, num_slots, count)
    return InTurn(runner_for(forward)), num_slots, forward.size_bytes


def _in_stages(
    opened: OpenCheckpoint, weights: str, stages: tuple[Stage, ...], num_slots: int, count: Count
) -> tuple[Flights, int, int]:
    """Return a split model at work, its slots and its bytes: as many slots as fit the GPU that has least room."""
    parts = [opened.read(weights_on(s, weights, stages), s.device, s.layers, count, to_run=True) for s in stages]
    for device in {part.device for part in parts if part.device.type == "cuda"}:
        num_slots = fitting_slots([part for part in parts if part.device == device], num_slots)
    forwards = [gpu_forward(p, num_slots) if p.device.type == "cuda" else TorchForward(p, num_slots) for p in parts]
    return pipelined(forwards), num_slots, sum(forward.size_bytes for forward in forwards)


def _in_processes(
    opened: OpenCheckpoint, weights: str, stages: tuple[Stage, ...], num_slots: int, count: Count
) -> tuple[Flights, int]:
    """Return a model that is split over parts of the CPU, each in a process that reads its own, and its bytes."""
    cores = share_cores(len(stages))
    folder = str(opened.folder)
    running = ProcessStages(
        [Part(folder, s.layers, weights, num_slots, some) for s, some in zip(stages, cores, strict=True)], count
    )
    return Pipeline(running), running.size_bytes


def _classifier(
    opened: OpenCheckpoint, source: str, model_id: str, weights: str, stages: tuple[Stage, ...], count: Count
) -> Classifier:
    if len(stages) > 1:
        raise CheckpointError(f"{source} classifies, which runs on one device; give it one.")
    if "score.weight" not in opened.files.entries:
        raise CheckpointError(f"{source} has no score.weight: it is no sequence classifier.")
    (stage,) = stages
    model = opened.read(weights, stage.device, stage.layers, count, to_run=True)
    score = opened.tensors(weights, stage.device, count)["score.weight"]
    names = opened.config.get("id2label") or {}
    labels = [str(names.get(str(i), f"LABEL_{i}")) for i in range(score.shape[0])]
    where = device_map(stages)
    return Classifier(model_id, model, score, opened.tokenizer, labels, weights, model.size_bytes, where)
