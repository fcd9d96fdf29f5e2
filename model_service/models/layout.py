"""Which tensors a model has by its config.json, of which sizes, and which of its parts needs which. No torch here.

Names are transformers', without the `transformer.` prefix. Matrices of linears are (out, in), whatever the file has.
"""

import re

from model_service.models.shape import GPTJShape, Shape

Sizes = tuple[int, ...]
IN_LAYER = re.compile(r"h\.(\d+)\.")


def tensor_sizes(shape: Shape) -> dict[str, Sizes]:
    """Return the tensors of a language model. A tied head is the embedding, and has no bias."""
    e, v = shape.n_embd, shape.vocab_size
    sizes: dict[str, Sizes] = {"wte.weight": (v, e)}
    if not isinstance(shape, GPTJShape):
        sizes["wpe.weight"] = (shape.n_positions, e)
    in_layer = layer_sizes(shape)
    for layer in range(shape.n_layer):
        sizes |= {f"h.{layer}.{name}": size for name, size in in_layer.items()}
    sizes |= {"ln_f.weight": (e,), "ln_f.bias": (e,), "lm_head.weight": (v, e)}
    return {**sizes, "lm_head.bias": (v,)} if isinstance(shape, GPTJShape) else sizes


def layer_sizes(shape: Shape) -> dict[str, Sizes]:
    """Return the tensors of one layer."""
    e, inner = shape.n_embd, shape.inner_size
    if isinstance(shape, GPTJShape):
        linears = {f"attn.{name}_proj": (e, e) for name in ("q", "k", "v", "out")}
        with_bias = {"mlp.fc_in": (inner, e), "mlp.fc_out": (e, inner)}
        norms = ["ln_1"]
    else:
        linears = {}
        with_bias = {"attn.c_attn": (3 * e, e), "attn.c_proj": (e, e), "mlp.c_fc": (inner, e), "mlp.c_proj": (e, inner)}
        norms = ["ln_1", "ln_2"]
    sizes: dict[str, Sizes] = {f"{name}.weight": size for name, size in (linears | with_bias).items()}
    sizes |= {f"{name}.bias": (size[0],) for name, size in with_bias.items()}
    return sizes | {f"{norm}.{part}": (e,) for norm in norms for part in ("weight", "bias")}


def needed(name: str, layers: range, shape: Shape) -> bool:
    """Say whether these layers of a language model need a tensor: embeddings with the first, head with the last."""
    if found := IN_LAYER.match(name):
        return int(found[1]) in layers
    first, last = layers.start == 0, layers.stop == shape.n_layer
    if name == "wte.weight":
        return first or (last and shape.tied)
    return first if name == "wpe.weight" else last and name.startswith(("ln_f.", "lm_head."))
