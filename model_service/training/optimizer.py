"""AdamW over FP32 weights, with a state that is plain tensors: no pickle in a checkpoint."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from model_service.training.parallel import laid_out_like, whole
from model_service.training.recipe import Recipe

BETAS = (0.9, 0.98)


class Optimizer:
    """Steps over named parameters. Its tensors are called `exp_avg <parameter>` and so on."""

    def __init__(self, parameters: Mapping[str, Tensor], recipe: Recipe) -> None:
        assert all(p.dtype == torch.float32 for p in parameters.values()), "16-bit weights lose small updates"
        self.parameters = parameters
        self._max_grad_norm = recipe.max_grad_norm
        self._adamw = torch.optim.AdamW(
            parameters.values(), lr=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay, fused=True
        )

    def step(self, learning_rate: float, scaler: torch.amp.GradScaler) -> bool:
        """Clip, step, and forget the gradients; false if they were not finite, and nothing has changed then."""
        scaler.unscale_(self._adamw)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._max_grad_norm)
        finite = math.isfinite(whole({"norm": norm})["norm"].item())
        if finite:
            for group in self._adamw.param_groups:
                group["lr"] = learning_rate
            scaler.step(self._adamw)
        scaler.update()
        self.forget()
        return finite

    def forget(self) -> None:
        """Drop the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return its tensors by name, whole; empty before the first step. All processes of a group must ask."""
        kept = self._adamw.state
        return whole(
            {f"{key} {name}": tensor for name, p in self.parameters.items() for key, tensor in kept[p].items()}
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned."""
        for full_name, tensor in tensors.items():
            key, _, name = full_name.partition(" ")
            parameter = self.parameters[name]
            self._adamw.state[parameter][key] = laid_out_like(tensor, parameter)
