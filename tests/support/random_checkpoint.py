"""Checkpoints of a real model's size with random weights in FP16, written shard by shard: to measure memory with."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig

from model_service.models.shape import GPTJShape, Shape
from tests.support.tiny_models import byte_tokenizer

SHARD_BYTES = 2 << 30


def save_random(folder: Path, shape: Shape, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write a checkpoint of this shape; host memory holds one shard at a time. Returns the folder."""
    config = config_of(shape)
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    with torch.device("meta"):
        sizes = {name: tensor.shape for name, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()}
    if shape.tied:
        del sizes["lm_head.weight"]
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + 2 * size.numel() > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += 2 * size.numel()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: torch.randn(sizes[name], dtype=torch.float16) * 0.02 for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def config_of(shape: Shape) -> GPT2Config | GPTJConfig:
    """The configuration that transformers has for a shape."""
    numbers = {name: getattr(shape, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    tokens = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, "n_inner": shape.inner_size}
    if isinstance(shape, GPTJShape):
        return GPTJConfig(**numbers, **tokens, rotary_dim=shape.rotary_dim, tie_word_embeddings=shape.tied)
    return GPT2Config(**numbers, **tokens, tie_word_embeddings=shape.tied)
