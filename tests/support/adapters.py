"""Real PEFT adapters on the tiny models: random, but not nothing."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

ALL_LINEARS = {
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
    "gptj": ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
}


def save_adapter(folder: Path, base: Path, seed: int = 1, *, strength: float = 0.1, **changes: Any) -> Path:
    """Write an adapter of the base as PEFT writes it, with random matrices; return the folder.

    changes: of the LoraConfig; without any it has rank 4 on all linears.
    """
    loaded = AutoModelForCausalLM.from_pretrained(base)
    kind = loaded.config.model_type
    config = {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEARS[kind], "task_type": "CAUSAL_LM"}
    config["fan_in_fan_out"] = kind == "gpt2"  # its matrices are the other way round
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that will go
        model = get_peft_model(loaded, LoraConfig(**{**config, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * strength)
            elif "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def merged_model(base: Path, adapter: Path | None) -> Any:
    """Return the base with the adapter merged in by PEFT; without one, the base."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    if adapter is None:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
