"""Reads a GPT-2 checkpoint as float32 arrays, for the converters; matrices are turned to (out, in)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_service.models.loading import open_checkpoint

Floats = NDArray[np.float32]


def read_arrays(folder: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return config.json and the tensors by transformers' names. Raises CheckpointError."""
    tensors = open_checkpoint(str(folder)).tensors("float32")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
