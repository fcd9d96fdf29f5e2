"""Reads LoRA adapters as PEFT saves them: adapter_config.json and adapter_model.safetensors. No pickle, ever.

    y = W x + bias + scale * B A x          A (r, in), B (out, r) beside a frozen W (out, in)

An adapter changes what a linear layer of the base model gives by a product of two thin matrices. Where several of
transformers' linears are one of ours (GPT-J's queries, keys and values), theirs lie in it as blocks. What PEFT can do
beyond that (DoRA, trained biases, replaced layers, ...) is refused by name: it would answer, but wrongly.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model_service.models.decoder import Decoder
from model_service.models.folder import ADAPTER_CONFIG, CheckpointError, read_json

TENSORS = "adapter_model.safetensors"
LINEARS: Mapping[str, Mapping[str, str]] = {  # by model_type: which of our linears holds each of transformers'
    "gpt2": {"attn.c_attn": "qkv", "attn.c_proj": "proj", "mlp.c_fc": "up", "mlp.c_proj": "down"},
    "gptj": {
        **dict.fromkeys(("attn.q_proj", "attn.k_proj", "attn.v_proj"), "qkv"),
        **{"attn.out_proj": "proj", "mlp.fc_in": "up", "mlp.fc_out": "down"},
    },
}
TENSOR_NAME = re.compile(r"base_model\.model\.((?:transformer\.)?h\.(\d+)\.(\w+\.\w+))\.lora_(A|B)\.weight")
USED = {"alpha_pattern", "lora_alpha", "peft_type", "use_rslora"}
HARMLESS = {  # they say where the tensors came from or where they go, which the tensors say too
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type"),
}
KEPT_BASE = (True, False, "gaussian", "eva", "orthogonal")  # the other first values change the base model's weights


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one linear: x (N, in) gives x a^T b (N, out). Both contiguous, so that rows are read."""

    a: Tensor  # (r, in), PEFT's A
    b: Tensor  # (r, out), PEFT's B transposed, times the scale

    @property
    def rank(self) -> int:
        """Rows of `a`; layers of one adapter may differ in it."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """A LoRA adapter in memory, read-only. Two of them are equal only if they are the same object.

    layers[i] holds what is added in layer i, by linear (qkv, proj, up, down); those it leaves alone are absent.
    """

    name: str
    rank: int  # the largest; 0 if it leaves alone all layers that are here
    layers: tuple[Mapping[str, LowRank], ...]

    @property
    def size_bytes(self) -> int:
        """What its matrices take."""
        return sum(low.a.nbytes + low.b.nbytes for layer in self.layers for low in layer.values())


@dataclass(frozen=True, slots=True)
class Host:
    """What an adapter must fit, and how its matrices are held: the base model's sizes, format and device.

    layers: which of the base's layers are there to be adapted; None stands for all. model_type: of LINEARS.
    """

    n_layer: int
    n_embd: int
    n_inner: int
    dtype: torch.dtype
    device: torch.device
    layers: range | None = None
    model_type: str = "gpt2"

    @classmethod
    def of(cls, model: Decoder, dtype: torch.dtype | None = None) -> "Host":
        """Describe a model. dtype: of the matrices, if not the model's own."""
        shape = model.shape
        sizes = shape.n_layer, shape.n_embd, shape.inner_size
        return cls(*sizes, dtype or model.dtype, model.device, model.layers, shape.model_type)

    def sizes(self, linear: str) -> tuple[int, int]:
        """Return (in, out) of a linear."""
        embd, inner = self.n_embd, self.n_inner
        return {"qkv": (embd, 3 * embd), "proj": (embd, embd), "up": (embd, inner), "down": (inner, embd)}[linear]

    def sharing(self, linear: str) -> list[str]:
        """Return which of transformers' linears lie in one of ours, in their order; each has as many outputs."""
        return [module for module, ours in LINEARS[self.model_type].items() if ours == linear]


def read_adapter(name: str, folder: Path, host: Host) -> Adapter:
    """Read an adapter for a base model. Raises CheckpointError with what is wrong; blocks like the disk does."""
    config = read_json(folder / ADAPTER_CONFIG)
    if why := _refusal(config):
        raise CheckpointError(f"The adapter in {folder} cannot run: {why}.")
    layers: tuple[dict[str, dict[str, LowRank]], ...] = tuple({} for _ in range(host.n_layer))
    for (layer, module), (full_name, pair) in _pairs(folder, LINEARS[host.model_type]).items():
        if why := _misfit(layer, module, pair, host):
            raise CheckpointError(f"The adapter in {folder} does not fit its base model: {why}.")
        if host.layers is None or layer in host.layers:
            linear, scale = LINEARS[host.model_type][module], _scale(config, full_name, pair["A"])
            layers[layer].setdefault(linear, {})[module] = LowRank(pair["A"], (pair["B"].float() * scale).T)
    held = tuple({linear: _held(linear, parts, host) for linear, parts in layer.items()} for layer in layers)
    all_held = [low for layer in held for low in layer.values()]
    if not all(low.a.isfinite().all() and low.b.isfinite().all() for low in all_held):
        raise CheckpointError(f"The adapter in {folder} cannot run: some of its numbers are not finite.")
    return Adapter(name, max((low.rank for low in all_held), default=0), held)


def _pairs(folder: Path, modules: Collection[str]) -> dict[tuple[int, str], tuple[str, dict[str, Tensor]]]:
    """Return the matrices A and B by layer and module, with the module's full name. Raises CheckpointError."""
    pairs: dict[tuple[int, str], tuple[str, dict[str, Tensor]]] = {}
    for key, tensor in _tensors(folder):
        match = TENSOR_NAME.fullmatch(key)
        if match is None or match[3] not in modules:
            there = ", ".join(modules)
            raise CheckpointError(f"The adapter in {folder} cannot run: it changes {key}; adapters may change {there}.")
        _, pair = pairs.setdefault((int(match[2]), match[3]), (match[1], {}))
        pair[match[4]] = tensor
    if not pairs:
        raise CheckpointError(f"The adapter in {folder} cannot run: {TENSORS} holds nothing.")
    return pairs


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    if not (folder / TENSORS).exists():
        raise CheckpointError(f"{folder} has no {TENSORS}: only safetensors are loaded.")
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                yield key, file.get_tensor(key)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / TENSORS} could not be read: {error}") from error


def _refusal(config: Mapping[str, Any]) -> str:
    """Say which setting asks for something that is not computed here; empty if none does."""
    if config.get("peft_type") != "LORA":
        return f"its peft_type is {config.get('peft_type')!r}; LORA is the one that runs here"
    for key, value in config.items():
        if not value or key in USED or key in HARMLESS or (key, value) == ("bias", "none"):
            continue
        if key == "init_lora_weights" and value in KEPT_BASE:
            continue
        return f"it sets {key} to {value!r}, which does not run here"
    return ""


def _misfit(layer: int, module: str, pair: Mapping[str, Tensor], host: Host) -> str:
    """Say why a pair of matrices cannot stand beside a linear of the base; empty if it can."""
    if layer >= host.n_layer:
        return f"it has a layer {layer}, the base has layers 0 to {host.n_layer - 1}"
    if pair.keys() != {"A", "B"}:
        return f"of layer {layer} {module} it has only lora_{next(iter(pair))}"
    linear, a, b = LINEARS[host.model_type][module], pair["A"], pair["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        return f"layer {layer} {module} pairs matrices of {tuple(a.shape)} and {tuple(b.shape)}"
    inputs, outputs = host.sizes(linear)
    outputs //= len(host.sharing(linear))
    if (a.shape[1], b.shape[0]) != (inputs, outputs):
        return (
            f"its layer {layer} {module} goes from {a.shape[1]} to {b.shape[0]}, the base's from {inputs} to {outputs}"
        )
    return ""


def _scale(config: Mapping[str, Any], module: str, a: Tensor) -> float:
    """Return what the product is multiplied by. module: its name in the base model, `transformer.h.0.attn.c_attn`."""
    alpha = float(config.get("lora_alpha", 8))
    for pattern, special in (config.get("alpha_pattern") or {}).items():  # the first that matches, as in PEFT
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(special)
            break
    rank = a.shape[0]
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _held(linear: str, parts: Mapping[str, LowRank], host: Host) -> LowRank:
    """Return the matrices beside one of our linears as they are held. parts: by transformers' linears that lie in it.

    b of several has each one's outputs in its own columns, and zeros elsewhere.
    """
    modules = host.sharing(linear)
    width = host.sizes(linear)[1] // len(modules)
    a = torch.cat([parts[module].a for module in modules if module in parts])
    b = torch.zeros(len(a), width * len(modules))
    row = 0
    for i, module in enumerate(modules):
        if low := parts.get(module):
            b[row : row + low.rank, i * width : (i + 1) * width] = low.b
            row += low.rank
    return LowRank(a.contiguous().to(host.device, host.dtype), b.to(host.device, host.dtype))
