"""What an engine knows of its model, before any weight is touched. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is told about its model and its limits."""

    model_id: str
    context_len: int
    vocab_size: int
    eos_token_id: int
    max_num_seqs: int = 16
    max_queue: int = 256
    weights: str = "float32"
    device_map: tuple[tuple[str, str], ...] = ()
    size_bytes: int = 0
