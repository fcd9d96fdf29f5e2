"""Writes a GPT-2 of a real size with random weights and a tokenizer of the real size. Runs in a child process."""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor

from model_service.bench.models import EOS_KEY, NO_EOS

VOCAB_SIZE = 50257
CONTEXT_LEN = 1024
STD = 0.02  # GPT-2's own initialisation
EOS = "<|endoftext|>"


def write_random_gpt2(folder: Path, shape: tuple[int, int, int], seed: int = 0) -> None:
    """Write config.json, model.safetensors (float32) and tokenizer.json. shape: layers, width, heads."""
    n_layer, n_embd, n_head = shape
    folder.mkdir(parents=True)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": VOCAB_SIZE,
        "n_positions": CONTEXT_LEN,
        "n_embd": n_embd,
        "n_layer": n_layer,
        "n_head": n_head,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": VOCAB_SIZE - 1,
        "eos_token_id": NO_EOS,  # every engine makes as many tokens as it is asked for
        EOS_KEY: VOCAB_SIZE - 1,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(random_tensors(n_layer, n_embd, seed), folder / "model.safetensors", metadata={"format": "pt"})
    byte_pair_tokenizer(VOCAB_SIZE).save(str(folder / "tokenizer.json"))


def random_tensors(n_layer: int, n_embd: int, seed: int) -> dict[str, Tensor]:
    """Return a checkpoint by transformers' names: normal weights, norms of one, biases of zero."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.empty(rows, columns).normal_(std=STD, generator=generator)

    tensors = {"wte.weight": matrix(VOCAB_SIZE, n_embd), "wpe.weight": matrix(CONTEXT_LEN, n_embd)}
    for layer in range(n_layer):
        for name, rows, columns in (
            ("attn.c_attn", n_embd, 3 * n_embd),  # transformers' Conv1D: (in, out)
            ("attn.c_proj", n_embd, n_embd),
            ("mlp.c_fc", n_embd, 4 * n_embd),
            ("mlp.c_proj", 4 * n_embd, n_embd),
        ):
            tensors[f"h.{layer}.{name}.weight"] = matrix(rows, columns)
            tensors[f"h.{layer}.{name}.bias"] = torch.zeros(columns)
        for name in ("ln_1", "ln_2"):
            tensors |= _norm(f"h.{layer}.{name}", n_embd)
    tensors |= _norm("ln_f", n_embd)
    return {f"transformer.{name}": tensor for name, tensor in tensors.items()}


def _norm(name: str, n_embd: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(n_embd), f"{name}.bias": torch.zeros(n_embd)}


def byte_pair_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE: the 256 bytes, pairs of them until the vocabulary is full, and end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(itertools.islice(itertools.product(alphabet, alphabet), vocab_size - len(alphabet) - 1))
    words = [*alphabet, *(first + second for first, second in merges)]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS])
    return tokenizer
