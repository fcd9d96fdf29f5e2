"""What an engine knows of its model, before any weight is touched. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_service.engine.prefill_budget import LEAST_TOKENS


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a model on a device. A placement is a tuple of these, in the order of the layers.

    device: "cuda:0", "cpu", or "cpu:0", "cpu:1" for stages that share the CPU. layers: contiguous, absolute numbers.
    """

    device: str
    layers: range


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is told about its model and its limits."""

    model_id: str
    context_len: int
    vocab_size: int
    eos_token_id: int
    max_num_seqs: int = 16
    max_queue: int = 256
    min_prefill_tokens: int = LEAST_TOKENS  # of prompts, in a step that reads any
    weights: str = "float32"
    device_map: tuple[tuple[str, str], ...] = ()
    size_bytes: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)  # of guilds and users that are not 1, see fair_queue.py
