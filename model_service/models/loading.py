"""Finds a checkpoint (a folder, or a hub id) and reads it: config, tokenizer, safetensors. No pickle, ever.

Tensors go straight to their device and number format, one at a time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor

from model_service.models.decoder import Decoder, decoder
from model_service.models.shape import Shape, shape_of

WANTED = ["*.json", "*.safetensors", "merges.txt"]  # what is fetched from a hub repository
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
READ_AS = {**DTYPES, "int8": torch.float32}  # quantised by whoever runs it
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old checkpoints carry


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on its device, with what is needed to talk to it."""

    model: Decoder
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    folder: Path
    tensors: Mapping[str, Tensor]  # everything that was read, heads included
    weights: str  # the number format that was asked for

    @property
    def eos_token_id(self) -> int:
        """The token that ends a text."""
        eos: int | list[int] | None = self.config.get("eos_token_id")
        if isinstance(eos, list):
            eos = eos[0] if eos else None
        return self.tokenizer.get_vocab_size() - 1 if eos is None else eos

    @property
    def size_bytes(self) -> int:
        """What the weights take, tied ones once."""
        return sum({t.data_ptr(): t.nbytes for t in self.tensors.values()}.values())


def find_folder(source: str) -> Path:
    """Return the folder of a checkpoint; a hub id is downloaded once, into the hub's own cache."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source} is neither a folder nor a hub id like openai-community/gpt2.")
    from huggingface_hub import snapshot_download  # a second of imports that folders do not need

    try:
        return Path(snapshot_download(source, allow_patterns=WANTED))
    except Exception as error:  # the hub client raises many kinds, all of them "not there"
        raise CheckpointError(f"{source} could not be fetched from the hub: {str(error).splitlines()[0]}") from error


def check_weights(weights: str, device: torch.device) -> None:
    """Raise CheckpointError for a number format that does not run on a device."""
    if weights not in READ_AS:
        raise CheckpointError(f"weights = {weights!r} is no number format; choose auto, {', '.join(READ_AS)}.")
    if weights == "int8" and device.type != "cpu":
        raise CheckpointError('weights = "int8" runs on a CPU only; on a GPU choose float16.')


def read_checkpoint(source: str, *, weights: str = "float32", device: str = "cpu") -> Checkpoint:
    """Load a checkpoint; one for int8 comes in float32. Blocks for as long as the disk takes.

    Raises CheckpointError with what is wrong.
    """
    folder = find_folder(source)
    config = read_json(folder / "config.json")
    target = torch.device(device)
    check_weights(weights, target)
    shape = _shape(config, source)
    try:
        tensors = _read_tensors(folder, target, READ_AS[weights])
        model = decoder(shape, tensors)
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error.args[0]}.") from error
    return Checkpoint(model, read_tokenizer(folder), config, folder, tensors, weights)


def read_shape(source: str) -> Shape:
    """Read only the sizes of a checkpoint. Raises CheckpointError."""
    return _shape(read_json(find_folder(source) / "config.json"), source)


def _shape(config: Mapping[str, Any], source: str) -> Shape:
    try:
        return shape_of(config)
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error.args[0]}.") from error
    except ValueError as error:
        raise CheckpointError(f"{source} cannot run: {error}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return content


def _read_tensors(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).exists():
            bins = ", ".join(p.name for p in folder.glob("*.bin"))
            hint = f" It has {bins}: only safetensors are loaded." if bins else ""
            raise CheckpointError(f"{folder} has no {name}.{hint}")
        with safe_open(folder / name, framework="pt", device=str(device)) as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                short = key.removeprefix("transformer.")
                if not short.endswith(BUFFERS):
                    tensor = file.get_tensor(key).to(dtype)
                    tensors[short] = tensor.T.contiguous() if short.endswith(CONV1D) else tensor
    return tensors


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json, or GPT-2's older pair vocab.json and merges.txt.

    What people write is text: `<|endoftext|>` in it is thirteen characters, not the token that ends a joke.
    """
    tokenizer = _tokenizer(folder)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _tokenizer(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not (folder / "vocab.json").exists() or not (folder / "merges.txt").exists():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt.")
    bpe = tokenizer_models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
