"""What goes through the pipes between an engine and the processes of its stages. See stage_process.py."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model_service.engine.stage import Landed, Message, Work
from model_service.models.loading import CheckpointError


@dataclass(frozen=True, slots=True)
class Part:
    """What a stage's process loads. source: a folder. cores: those it may use; none: all."""

    source: str
    layers: range
    weights: str
    num_slots: int
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadAdapter:
    """Read an adapter, for sequences to carry by its key."""

    key: int
    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class DropAdapter:
    """No sequence carries it any more."""

    key: int


@dataclass(frozen=True, slots=True)
class HowFar:
    """Bytes of the files that were read since this was said last."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """A tensor on its way through a pipe."""

    content: bytearray
    dtype: torch.dtype
    shape: torch.Size


def packed(message: Message | None) -> Any:
    """Make a message fit for a pipe: a tensor becomes its bytes, an error one that can be pickled."""
    if isinstance(message, Work) and message.x is not None:
        x = message.x.contiguous()
        content = bytearray(x.view(torch.uint8).numpy())
        return replace(message, x=TensorBytes(content, x.dtype, x.shape))  # type: ignore[arg-type]
    if isinstance(message, Landed) and message.error is not None:
        return replace(message, error=portable(message.error))
    return message


def unpacked(message: Any) -> Any:
    """Undo `packed`."""
    if isinstance(message, Work) and isinstance(message.x, TensorBytes):
        sent = message.x
        return replace(message, x=torch.frombuffer(sent.content, dtype=sent.dtype).view(sent.shape))
    return message


def portable(error: BaseException) -> BaseException:
    """Return an error that can be pickled; those of libraries may hold anything."""
    return error if isinstance(error, CheckpointError) else RuntimeError(f"{type(error).__name__}: {error}")
