"""transformers' `generate` as a contestant: eager, with its dynamic cache, a static one, or continuous batching."""

from pathlib import Path
from typing import Any

from model_service.bench.task import Task


class Transformers:
    """A GPT2LMHeadModel. weights: a dtype, and on a GPU perhaps `static` or `continuous` after it."""

    def __init__(self, folder: Path, weights: str, device: str) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        dtype, _, self._mode = weights.partition(" ")
        self.weights = weights
        self._device = device
        self._model: Any = GPT2LMHeadModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        self._model.eval().to(device)
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def prepare(self, task: Task) -> None:
        """Let go of what was sized for other tasks; the caller runs one, untimed, which compiles and captures anew."""
        if self._mode == "continuous":
            self._model.destroy_cached_continuous_batching_manager()

    def run(self, task: Task) -> list[list[int]]:
        """Generate greedily."""
        import torch

        prompts = task.prompts(self._model.config.vocab_size)
        if self._mode == "continuous":
            return self._continuous(prompts, task)
        input_ids = torch.tensor(prompts, device=self._device)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=task.new_tokens,
                do_sample=False,
                cache_implementation="static" if self._mode == "static" else None,
            )
        token_ids: list[list[int]] = made[:, task.prompt_len :].tolist()
        return token_ids

    def _continuous(self, prompts: list[list[int]], task: Task) -> list[list[int]]:
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=task.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        made = self._model.generate_batch(
            prompts, generation_config=config, progress_bar=False, persistent_manager=True
        )
        ordered = sorted(made.values(), key=lambda output: int(output.request_id.rpartition("_")[2]))
        return [list(output.generated_tokens) for output in ordered]
