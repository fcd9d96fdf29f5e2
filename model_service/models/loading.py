"""Opens a checkpoint (a folder, or a hub id) and reads it, whole or in parts. No pickle, ever.

    open_checkpoint ── config, shape, tokenizer, where each tensor is ──> read(layers) ── a tensor at a time ──> Decoder

Opening reads no weights. Reading takes only the tensors that a part needs, each straight to its device and number
format (stored.py): what is left of it in the host's memory is the part itself, if that is on the CPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from model_service.models.decoder import Decoder, decoder
from model_service.models.folder import CheckpointError as CheckpointError
from model_service.models.folder import find_folder as find_folder
from model_service.models.folder import read_config, read_shape
from model_service.models.folder import read_json as read_json
from model_service.models.linear import Form, can_pack, to_int8, to_packed
from model_service.models.shape import GPT2Shape, Shape
from model_service.models.stored import Reading, StoredFiles
from model_service.models.stored_gpt2 import StoredGPT2

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
READ_AS = {**DTYPES, "int8": torch.float32}  # quantised a layer at a time by whoever runs it


@dataclass(frozen=True, slots=True)
class OpenCheckpoint:
    """A checkpoint on disk: all that is known of it before a weight is read."""

    folder: Path
    config: Mapping[str, Any]
    shape: Shape
    tokenizer: Tokenizer
    files: StoredFiles

    @property
    def eos_token_id(self) -> int:
        """The token that ends a text."""
        eos: int | list[int] | None = self.config.get("eos_token_id")
        if isinstance(eos, list):
            eos = eos[0] if eos else None
        return self.tokenizer.get_vocab_size() - 1 if eos is None else eos

    def tensors(self, weights: str, device: str = "cpu", count: Callable[[int], None] | None = None) -> Reading:
        """Return its tensors, each read when it is asked for; those for int8 come in float32. Raises CheckpointError.

        count: called with how many bytes of the files were read since the last call.
        """
        target = torch.device(device)
        check_weights(weights, target)
        return Reading(self.files, READ_AS[weights], target, count)

    def stored_gpt2(self, count: Callable[[int], None] | None = None) -> StoredGPT2:
        """Return it for who copies it a layer at a time, as our int8 kernels do. Raises CheckpointError."""
        assert isinstance(self.shape, GPT2Shape)
        self.files.check(range(self.shape.n_layer))
        return StoredGPT2(self.shape, self.tensors("float32", count=count))

    def read(
        self,
        weights: str = "float32",
        device: str = "cpu",
        layers: range | None = None,
        count: Callable[[int], None] | None = None,
        *,
        to_run: bool = False,
    ) -> Decoder:
        """Read the model, or contiguous layers of it; int8 runs in pure torch. Blocks. Raises CheckpointError.

        to_run: in whatever form runs fastest here; its weights are not to be looked at.
        """
        form: Form | None = to_int8 if weights == "int8" else None
        if to_run and weights in DTYPES and can_pack(DTYPES[weights], torch.device(device)):
            form = to_packed
        layers = range(self.shape.n_layer) if layers is None else layers
        self.files.check(layers)
        try:
            return decoder(self.shape, self.tensors(weights, device, count), layers, form)
        except KeyError as error:
            raise CheckpointError(f"{self.files.index} lacks {error.args[0]}.") from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            part = f"layers {layers.start}-{layers.stop - 1} of {self.folder} in {weights}"
            raise CheckpointError(f"{device} has no memory left for {part}.") from error


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole model on its device, with what is needed to talk to it."""

    opened: OpenCheckpoint
    model: Decoder
    weights: str  # the number format that was asked for


def open_checkpoint(source: str) -> OpenCheckpoint:
    """Find a checkpoint and read all but its weights; a hub id is downloaded once. Raises CheckpointError."""
    folder = find_folder(source)
    config = read_config(folder)
    shape = read_shape(config, source)
    return OpenCheckpoint(folder, config, shape, read_tokenizer(folder), StoredFiles(folder, shape))


def read_checkpoint(source: str, *, weights: str = "float32", device: str = "cpu") -> Checkpoint:
    """Load a whole checkpoint. Blocks for as long as the disk takes. Raises CheckpointError with what is wrong."""
    opened = open_checkpoint(source)
    return Checkpoint(opened, opened.read(weights, device), weights)


def check_weights(weights: str, device: torch.device) -> None:
    """Raise CheckpointError for a number format that does not run on a device."""
    if weights not in READ_AS:
        raise CheckpointError(f"weights = {weights!r} is no number format; choose auto, {', '.join(READ_AS)}.")
    if weights == "int8" and device.type != "cpu":
        raise CheckpointError('weights = "int8" runs on a CPU only; on a GPU choose float16.')


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json, or GPT-2's older pair vocab.json and merges.txt.

    What people write is text: `<|endoftext|>` in it is thirteen characters, not the token that ends a joke.
    """
    tokenizer = _tokenizer(folder)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        if (folder / "tokenizer.json").exists():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return _old_tokenizer(folder)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more special
        raise CheckpointError(f"The tokenizer in {folder} could not be read: {error}") from error


def _old_tokenizer(folder: Path) -> Tokenizer:
    if not (folder / "vocab.json").exists() or not (folder / "merges.txt").exists():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt.")
    bpe = tokenizer_models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
