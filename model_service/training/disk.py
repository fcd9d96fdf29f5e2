"""How much disk a job takes at most, from the sizes of its model alone. No torch here.

checkpoints   weights, and two numbers of the optimizer for each, in FP32; those kept and the one being written
best          weights in FP32, likewise
the model     aside while it is measured
"""

import json
from pathlib import Path
from typing import Any

from model_service.training import registry
from model_service.training.folder import KEPT_CHECKPOINTS
from model_service.training.recipe import Adapter

CHECKPOINT_BYTES, BEST_BYTES, MODEL_BYTES = 12, 4, 4  # per trained weight
SMALL_FILES = 16 << 20  # tokenizer, events, log, and the libraries' caches
COPIES_OF_ROWS = 4  # the job's own, and what datasets keeps of them


def need_bytes(base_folder: Path, adapter: Adapter, lora_rank: int, rows_bytes: int) -> int:
    """Return the most that a job's folder and its model take together. rows_bytes: of the examples as text."""
    config = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))
    trained = registry.num_parameters(base_folder) if adapter == "full" else adapter_weights(config, lora_rank)
    per_weight = (KEPT_CHECKPOINTS + 1) * (CHECKPOINT_BYTES + BEST_BYTES) + MODEL_BYTES
    return trained * per_weight + COPIES_OF_ROWS * rows_bytes + SMALL_FILES


def adapter_weights(config: dict[str, Any], rank: int) -> int:
    """Count the weights of an adapter on all linears of a GPT-2 or GPT-J: rank * (inputs + outputs) for each."""
    embd, layers = int(config["n_embd"]), int(config["n_layer"])
    inner = config.get("n_inner") or 4 * embd
    attention = 4 * 2 * embd if config.get("model_type") == "gptj" else (embd + 3 * embd) + 2 * embd
    return layers * rank * (attention + 2 * (embd + inner))


def why_not(need: int, free: int) -> str | None:
    """Return a sentence with the numbers where it does not fit; else None."""
    if need <= free:
        return None
    return (
        f"This job needs about {mib(need)} of disk, but {mib(free)} are free."
        " Delete old models or jobs first; the old model is untouched."
    )


def mib(size_bytes: int) -> str:
    """Write a size for people."""
    return f"{max(1, round(size_bytes / 2**20)):,} MiB"
