"""Loads what a job trains, and writes what it ends with: the very file that is served.

    full   every weight, in FP32                     ─> model.safetensors in the format the base came in
    lora   FP32 matrices beside a frozen 16-bit base ─> adapter_model.safetensors (PEFT), FP32, not merged

A job that starts from an adapter goes on with its matrices; `full` starts from the base with them merged in, and so
does a classifier, which is served whole.
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
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from model_service.models.loading import read_tokenizer
from model_service.training import precision
from model_service.training.parallel import laid_out_like
from model_service.training.recipe import Precision, Recipe

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
PEFT_NAME = "default"  # what PEFT calls an adapter in memory; its files leave it out


@dataclass(frozen=True, slots=True)
class Base:
    """A model as a job starts from it. `model` is what is trained: of transformers, or PEFT's around it."""

    model: Any
    tokenizer: Tokenizer
    folder: Path
    eos_token_id: int
    context_len: int
    dtype: torch.dtype  # of the weights on disk
    started_from: Path  # the folder, or that of the adapter which it goes on from


def load_base(
    folder: Path,
    device: torch.device,
    recipe: Recipe | None = None,
    computes: Precision = "float32",
    *,
    adapter: Path | None = None,
    kind: Any = AutoModelForCausalLM,
    **options: Any,
) -> Base:
    """Read a model's folder, whatever it is stored in, and make of it what the recipe trains.

    recipe: none to look at the model only. computes: the format a frozen base is held in. adapter: a PEFT folder to go
    on from. kind, options: the class of transformers that reads it, and what it is told.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of padding, which packed rows mask
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    frozen = recipe is not None and recipe.adapter == "lora" and kind is AutoModelForCausalLM
    held = precision.dtype_of(computes) if frozen else torch.float32
    model = kind.from_pretrained(
        folder, dtype=held, use_safetensors=True, trust_remote_code=False, local_files_only=True, **options
    ).to(device)
    _compute_faster(model)
    if recipe and recipe.gradient_checkpointing:
        _compute_activations_twice(model)
    context_len = model.config.max_position_embeddings
    tokenizer = read_tokenizer(folder)
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    eos_token_id = tokenizer.get_vocab_size() - 1 if eos is None else int(eos)
    return Base(
        _trained(model, recipe, adapter) if recipe else model,
        tokenizer,
        folder,
        eos_token_id,
        context_len,
        stored_dtype(folder),
        adapter or folder,
    )


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the number format of the weights in a folder."""
    with safe_open(sorted(folder.glob("*.safetensors"))[0], framework="pt") as file:
        names = list(file.keys())
        widest: torch.dtype = file.get_tensor(names[0]).dtype
        return widest


def _compute_faster(model: Any) -> None:
    """Take fused operators for what transformers computes in parts: the same GELU, and attention without dropout.

    Attention that drops single scores cannot be fused; the other dropouts stay.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
            elif name == "attn_dropout":
                child.p = 0.0


def _compute_activations_twice(model: Any) -> None:
    """Keep only the inputs of each layer for the way back; transformers has renamed the call."""
    new_name = getattr(model, "activation_checkpointing_enable", None)
    (new_name or model.gradient_checkpointing_enable)({"use_reentrant": False})


def _trained(model: Any, recipe: Recipe, adapter: Path | None) -> Any:
    """Return the model to train: itself for `full`, wrapped in an FP32 adapter for `lora`."""
    if recipe.adapter == "full" and adapter is None:
        return model
    from peft import LoraConfig, PeftModel, get_peft_model  # seconds of imports that `full` does not need

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that will go
        classifies = hasattr(model, "score")
        goes_on = recipe.adapter == "lora" and not classifies
        if adapter is not None:
            config = LoraConfig.from_pretrained(adapter)
            config.task_type = None if classifies else config.task_type  # a classifier has nothing to generate with
            continued = PeftModel.from_pretrained(model, adapter, is_trainable=goes_on, config=config)
            if goes_on:
                return continued
            model = continued.merge_and_unload().requires_grad_()
            if recipe.adapter == "full":
                return model
        torch.manual_seed(recipe.seed)  # the adapter's first matrices are random
        conv1d = any(type(module).__name__ == "Conv1D" for module in model.modules())
        config = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=2 * recipe.lora_rank,
            target_modules="all-linear",
            fan_in_fan_out=conv1d,
            task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
            modules_to_save=["score"] if classifies else None,
        )
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
        parameters[name].copy_(laid_out_like(tensor, parameters[name]))


def write_model(model: Any, base: Base, recipe: Recipe, folder: Path) -> None:
    """Write what is served: the adapter as PEFT has it, or weights, config and the base's own tokenizer files.

    A full model is rounded to the base's format in place.
    """
    if recipe.adapter == "lora":
        model.peft_config[PEFT_NAME].base_model_name_or_path = str(base.folder)
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty form
        return
    model.to(base.dtype).config.dtype = base.dtype
    model.save_pretrained(folder)
    copy_tokenizer(base, folder)


def copy_tokenizer(base: Base, folder: Path) -> None:
    """Put the base's tokenizer files beside new weights."""
    for name in COPIED:
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, folder / name)


@torch.no_grad()
def read_back(model: Any, recipe: Recipe, folder: Path) -> bool:
    """Put what a folder's files hold into the model that was written there; false if a number in them is not finite.

    An adapter must also fit FP16, in which a GPU may run it.
    """
    if recipe.adapter == "full":
        model.float()
    held = model.state_dict()
    finite = True
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                tensor: Tensor = file.get_tensor(key)
                finite &= bool((tensor.half() if recipe.adapter == "lora" else tensor).isfinite().all())
                held[key if key in held else _in_memory(key)].copy_(tensor)
    return finite


def _in_memory(key: str) -> str:
    """Return PEFT's name in memory for a tensor of an adapter's file."""
    stem, _, end = key.rpartition(".")
    return f"{stem}.{PEFT_NAME}.{end}"


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 over a folder's safetensors files, in hex."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
