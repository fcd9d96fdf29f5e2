"""The variants whose shapes are known without a config.json: GPT-2 in its five sizes, and GPT-J 6B. No torch here."""

from collections.abc import Mapping

from model_service.models.shape import GPT2Shape, GPTJShape, Shape


def _gpt2(n_layer: int, n_embd: int, n_head: int) -> GPT2Shape:
    return GPT2Shape(vocab_size=50257, n_positions=1024, n_embd=n_embd, n_layer=n_layer, n_head=n_head)


VARIANTS: Mapping[str, Shape] = {
    "distilgpt2": _gpt2(6, 768, 12),
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt-j-6b": GPTJShape(
        vocab_size=50400, n_positions=2048, n_embd=4096, n_layer=28, n_head=16, n_inner=16384, rotary_dim=64
    ),
}
SOURCES = {  # the repositories they are published in
    "distilgpt2": "distilbert/distilgpt2",
    "gpt-j-6b": "EleutherAI/gpt-j-6b",
    **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
}


def known_shape(source: str) -> Shape | None:
    """Return the shape of what a hub id names, if it is one of the published variants."""
    names = {published.lower(): name for name, published in SOURCES.items()}
    name = names.get(source.lower())
    return None if name is None else VARIANTS[name]
