"""Real but tiny models, built offline in milliseconds: 2-layer GPT-2s with a byte-level tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

EOS = "<|endoftext|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, ids 0 to 255 in byte order of GPT-2's alphabet, and 256 for end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, bos_token=EOS, pad_token=EOS)


def tiny_config(**changes: object) -> GPT2Config:
    """A 2-layer configuration over the byte vocabulary."""
    base = {"vocab_size": 257, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return GPT2Config(**{**base, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, **changes})


def save_tiny_generator(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write a random GPT-2 language model with its tokenizer; return the folder."""
    torch.manual_seed(seed)
    GPT2LMHeadModel(tiny_config(initializer_range=0.2, **changes)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_classifier(folder: Path, labels: tuple[str, ...] = ("negative", "neutral", "positive")) -> Path:
    """Write a random GPT-2 sequence classifier with its tokenizer; return the folder."""
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = tiny_config(initializer_range=0.2, id2label=names, label2id={v: k for k, v in names.items()})
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
