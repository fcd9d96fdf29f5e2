"""Writes a GPT-J in small with random weights, and a tokenizer of GPT-2's size. Runs in a child process."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from model_service.bench.models import EOS_KEY, NO_EOS
from model_service.bench.random_gpt2 import CONTEXT_LEN, STD, VOCAB_SIZE, byte_pair_tokenizer
from model_service.models.layout import tensor_sizes
from model_service.models.shape import shape_of


def write_random_gptj(folder: Path, shape: tuple[int, int, int], seed: int = 0) -> None:
    """Write config.json, model.safetensors (float32) and tokenizer.json. shape: layers, width, heads.

    Matrices are normal, norms one and biases zero, as GPT-J begins; a quarter of each head is turned.
    """
    n_layer, n_embd, n_head = shape
    folder.mkdir(parents=True)
    config = {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "vocab_size": VOCAB_SIZE,
        "n_positions": CONTEXT_LEN,
        "n_embd": n_embd,
        "n_layer": n_layer,
        "n_head": n_head,
        "rotary_dim": n_embd // n_head // 4,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": VOCAB_SIZE - 1,
        "eos_token_id": NO_EOS,
        EOS_KEY: VOCAB_SIZE - 1,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, size in tensor_sizes(shape_of(config)).items():
        tensor = torch.zeros(size)
        if len(size) == 2:
            tensor.normal_(std=STD, generator=generator)
        elif name.endswith("weight"):
            tensor.fill_(1)
        tensors[name if name.startswith("lm_head.") else f"transformer.{name}"] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    byte_pair_tokenizer(VOCAB_SIZE).save(str(folder / "tokenizer.json"))
