"""The numbers of a config.json that decide what a model computes and what it takes. No torch here.

`Shape` is what all architectures have in common; `shape_of` finds the right one by `model_type`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

ACTIVATION_NAMES = {  # transformers' names, and which of ours each is: many compute the same
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_new"),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("silu", "swish"), "silu"),
    **{name: name for name in ("relu", "tanh", "quick_gelu")},
}
NATIVE_ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")  # those that our int8 kernels know
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
SWITCHES = {  # what changes the model, and does not run here
    "add_cross_attention": "only decoders without cross-attention run here",
    "is_encoder_decoder": "only decoders run here",
    "pruned_heads": "only models with all their heads run here",
    "quantization_config": "only models with float weights run here",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What every decoder here has. n_inner: width of a layer's middle. tied: the head is the token embedding."""

    model_type: ClassVar[str]

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int = 0  # 0: four times n_embd
    activation: str = "gelu_new"  # one of the values of ACTIVATION_NAMES
    layer_norm_epsilon: float = 1e-5
    tied: bool = True

    @property
    def head_size(self) -> int:
        """D, the size of one head."""
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """The width of a layer's middle."""
        return self.n_inner or 4 * self.n_embd

    def attention_scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied by before the softmax."""
        return 1 / math.sqrt(self.head_size)

    @property
    def scores_in_float32(self) -> bool:
        """Whether attention's scores must be taken in float32 where the model is held in 16 bits."""
        return False

    @property
    def why_not_native(self) -> str:
        """Say why our int8 kernels cannot run it; empty if they can."""
        return f"the int8 kernels know GPT-2, and this is a {self.model_type}"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a config.json. Raises KeyError for what is missing, ValueError for what does not run here."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class GPT2Shape(Shape):
    """GPT-2, with its switches."""

    model_type: ClassVar[str] = "gpt2"

    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False

    def attention_scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied by before the softmax."""
        scale = 1 / math.sqrt(self.head_size) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @property
    def scores_in_float32(self) -> bool:
        """Whether attention's scores must be taken in float32 where the model is held in 16 bits."""
        return self.reorder_and_upcast_attn

    @property
    def why_not_native(self) -> str:
        """Say why our int8 kernels cannot run it; empty if they can. Theirs are float32 scores, scaled by layer."""
        known = self.activation in NATIVE_ACTIVATIONS
        return "" if known else f"the int8 kernels do not know the activation {self.activation}"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read GPT-2's config.json. Raises KeyError for what is missing, ValueError for what does not run here."""
        return cls(
            **common_numbers(config),
            tied=config.get("tie_word_embeddings", True),
            scale_attn_weights=config.get("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=config.get("scale_attn_by_inverse_layer_idx", False),
            reorder_and_upcast_attn=config.get("reorder_and_upcast_attn", False),
        )


@dataclass(frozen=True, slots=True)
class GPTJShape(Shape):
    """GPT-J: positions turn the first `rotary_dim` numbers of each head; None turns all of them."""

    model_type: ClassVar[str] = "gptj"

    tied: bool = False
    rotary_dim: int | None = 64

    @property
    def scores_in_float32(self) -> bool:
        """As in transformers: its queries and keys are large, and their products overflow 16 bits."""
        return True

    @property
    def rotary_size(self) -> int:
        """R, how many numbers of a head are turned."""
        return self.rotary_dim or self.head_size

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read GPT-J's config.json. Raises KeyError for what is missing, ValueError for what does not run here."""
        numbers = common_numbers(config)
        shape = cls(**numbers, tied=config.get("tie_word_embeddings", False), rotary_dim=config.get("rotary_dim", 64))
        if shape.rotary_dim is None and shape.n_head > 1:  # transformers makes angles for n_embd numbers, and fails
            raise ValueError(f"rotary_dim is null with n_head {shape.n_head}; that says nothing of a head's part")
        if shape.rotary_dim is not None and shape.rotary_dim not in range(2, shape.head_size + 1, 2):
            raise ValueError(
                f"rotary_dim {shape.rotary_dim} is not an even number from 2 to the size of a head, {shape.head_size}"
            )
        return shape


ARCHITECTURES: dict[str, type[Shape]] = {shape.model_type: shape for shape in (GPT2Shape, GPTJShape)}


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Read a config.json. Raises KeyError for what is missing, ValueError for what does not run here."""
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        raise ValueError(f"its model_type is {config.get('model_type')!r}; {', '.join(ARCHITECTURES)} run here")
    return architecture.from_config(config)


def common_numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read and check what GPT-2 and its relatives share."""
    for name, why in SWITCHES.items():
        if config.get(name):
            raise ValueError(f"{name} is set; {why}")
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATION_NAMES:
        raise ValueError(f"activation_function {activation!r} is not one of {', '.join(ACTIVATION_NAMES)}")
    for name in SIZES:
        if not isinstance(config[name], int) or config[name] < 1:
            raise ValueError(f"{name} is {config[name]!r}, not a whole number above 0")
    if config["n_embd"] % config["n_head"]:
        raise ValueError(f"n_embd {config['n_embd']} is not a multiple of n_head {config['n_head']}")
    return {
        **{name: config[name] for name in SIZES},
        "n_inner": config.get("n_inner") or 0,
        "activation": ACTIVATION_NAMES[activation],
        "layer_norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
    }
