"""Loads what a job starts from, in FP32, and writes what it ends with, in the format it came in.

`full` trains every weight. `lora` trains a PEFT adapter beside frozen ones and merges it at the end,
so that a tuned model is served like any other.
"""

import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from model_service.models.loading import read_tokenizer
from model_service.training.recipe import Recipe

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """A model as a job starts from it."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    folder: Path
    eos_token_id: int
    context_len: int
    dtype: torch.dtype  # of the weights on disk


def load_base(folder: Path, device: torch.device) -> Base:
    """Read a model's folder into float32, whatever it is stored in: these are the master weights."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of padding, which packed rows mask
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    ).to(device)
    tokenizer = read_tokenizer(folder)
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    eos_token_id = tokenizer.get_vocab_size() - 1 if eos is None else int(eos)
    return Base(model, tokenizer, folder, eos_token_id, model.config.max_position_embeddings, stored_dtype(folder))


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the number format of the weights in a folder."""
    with safe_open(sorted(folder.glob("*.safetensors"))[0], framework="pt") as file:
        names = list(file.keys())
        widest: torch.dtype = file.get_tensor(names[0]).dtype
        return widest


def with_adapter(model: PreTrainedModel, recipe: Recipe) -> Any:
    """Return the model to train: itself for `full`, wrapped in an FP32 adapter for `lora`."""
    if recipe.adapter == "full":
        return model
    from peft import LoraConfig, get_peft_model  # seconds of imports that `full` does not need

    torch.manual_seed(recipe.seed)  # the adapter's first matrices are random
    rank = recipe.lora_rank
    conv1d = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=conv1d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that will go
        return get_peft_model(model, config)


def trainable(model: Any) -> dict[str, Tensor]:
    """Return the parameters that training changes, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def put(model: Any, weights: dict[str, Tensor]) -> None:
    """Copy weights from a checkpoint into the trained model."""
    parameters = trainable(model)
    assert parameters.keys() == weights.keys()
    for name, tensor in weights.items():
        parameters[name].copy_(tensor)


def merged(model: Any, recipe: Recipe, dtype: torch.dtype) -> PreTrainedModel:
    """Return the finished model as it will be stored: the adapter merged in, rounded to `dtype`."""
    plain = model if recipe.adapter == "full" else model.merge_and_unload()
    return plain.to(dtype)


def write_model(model: PreTrainedModel, base: Base, folder: Path) -> None:
    """Write safetensors, config and the base's own tokenizer files."""
    model.config.dtype = base.dtype
    model.save_pretrained(folder)
    for name in COPIED:
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, folder / name)


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 over a folder's safetensors files, in hex."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
