"""Writes a GPT-2 checkpoint as a CTranslate2 model. Runs in a child process.

The specification is CTranslate2's own for GPT-2; its tokens are the ids as words, for ids go in and come out.
"""

from pathlib import Path
from typing import Any

from ctranslate2.specs import common_spec
from ctranslate2.specs.transformer_spec import TransformerDecoderModelSpec

from model_service.bench.tensors import Floats, read_arrays

ACTIVATIONS = {
    "gelu_new": common_spec.Activation.GELUTanh,
    "gelu_pytorch_tanh": common_spec.Activation.GELUTanh,
    "gelu_fast": common_spec.Activation.GELUTanh,
    "gelu": common_spec.Activation.GELU,
    "relu": common_spec.Activation.RELU,
    "silu": common_spec.Activation.SWISH,
}


def write_ctranslate2(folder: Path, target: Path, weights: str) -> None:
    """Write the folder `target`. weights: float32, float16 or int8."""
    config, arrays = read_arrays(folder)
    spec = TransformerDecoderModelSpec.from_config(
        config["n_layer"],
        config["n_head"],
        pre_norm=True,
        activation=ACTIVATIONS[config.get("activation_function", "gelu_new")],
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = arrays["wte.weight"]
    decoder.position_encodings.encodings = arrays["wpe.weight"]
    decoder.projection.weight = arrays.get("lm_head.weight", arrays["wte.weight"])
    _norm(decoder.layer_norm, arrays, "ln_f")
    for number, layer in enumerate(decoder.layer):
        _norm(layer.self_attention.layer_norm, arrays, f"h.{number}.ln_1")
        _linear(layer.self_attention.linear[0], arrays, f"h.{number}.attn.c_attn")
        _linear(layer.self_attention.linear[1], arrays, f"h.{number}.attn.c_proj")
        _norm(layer.ffn.layer_norm, arrays, f"h.{number}.ln_2")
        _linear(layer.ffn.linear_0, arrays, f"h.{number}.mlp.c_fc")
        _linear(layer.ffn.linear_1, arrays, f"h.{number}.mlp.c_proj")
    spec.register_vocabulary([str(i) for i in range(config["vocab_size"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = str(config["vocab_size"] - 1)
    spec.validate()
    spec.optimize(quantization=None if weights == "float32" else weights)
    target.mkdir(parents=True)
    spec.save(str(target))


def _linear(spec: Any, arrays: dict[str, Floats], name: str) -> None:
    spec.weight, spec.bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]


def _norm(spec: Any, arrays: dict[str, Floats], name: str) -> None:
    spec.gamma, spec.beta = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
