"""Writes a GPT-2 checkpoint as GGUF in llama.cpp's number formats. Runs in a child process.

Like llama-quantize: matrices in the format, the tied head too (it is the embedding); norms, biases and
positions in float32. There is no tokenizer in the file: token ids go in and come out.
"""

from pathlib import Path

import gguf
import numpy as np

from model_service.bench.tensors import Floats, read_arrays

TYPES = {
    "F32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "F16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "BF16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(folder: Path, target: Path, weights: str) -> None:
    """Write `target`. weights: F32, F16, BF16 or Q8_0. Raises ValueError for rows that Q8_0's blocks do not divide."""
    config, arrays = read_arrays(folder)
    kind, file_type = TYPES[weights]
    writer = gguf.GGUFWriter(target, "gpt2")
    writer.add_name(folder.name)
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))
    writer.add_file_type(file_type)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    for name, array in arrays.items():
        _add(writer, gguf_name(name), array, kind if array.ndim == 2 and name != "wpe.weight" else TYPES["F32"][0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of one of transformers' tensors."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("h."):
        _, layer, part = stem.split(".", 2)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    stems = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
    return f"{stems[stem]}.{kind}"


def _add(writer: gguf.GGUFWriter, name: str, array: Floats, kind: gguf.GGMLQuantizationType) -> None:
    if kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    elif kind == gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
