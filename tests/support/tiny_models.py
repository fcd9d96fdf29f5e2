"""Real but tiny models, built offline in milliseconds: GPT-2s and GPT-Js of 2 layers with a byte-level tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from model_service.models.decoder import Decoder, decoder
from model_service.models.shape import shape_of

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


def tiny_gptj_config(**changes: object) -> GPTJConfig:
    """A 2-layer configuration over the byte vocabulary; half of each head is turned."""
    base = {"vocab_size": 257, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
    return GPTJConfig(**{**base, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, **changes})


def tiny_gptj(seed: int = 0, **changes: object) -> GPTJForCausalLM:
    """A random GPT-J. Its biases are not zero, as transformers would leave them."""
    torch.manual_seed(seed)
    model = GPTJForCausalLM(tiny_gptj_config(**{"initializer_range": 0.2, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def decoder_of(model: PreTrainedModel, dtype: torch.dtype = torch.float32, layers: range | None = None) -> Decoder:
    """Make our model of the weights of transformers' one, or of some of its layers; they may share memory."""
    return decoder(shape_of(model.config.to_dict()), {k: t.to(dtype) for k, t in tensors_of(model).items()}, layers)


def tensors_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights of transformers' model by the names, and as `decoder` takes them."""
    return {
        name.removeprefix("transformer."): tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor
        for name, tensor in model.state_dict().items()
    }


def save_tiny_gptj(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write a random GPT-J language model with its tokenizer; return the folder."""
    tiny_gptj(seed, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


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
