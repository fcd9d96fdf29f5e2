"""Muon in float32, with the matrices of one shape orthogonalised together.

Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks". `torch.optim.Muon`
iterates in bfloat16, one matrix at a time; on a CPU without bfloat16 units that costs as much as half
of the training step (0.50 s against 0.21 s for six layers of width 256 on two Ice Lake cores).
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalize(update: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrices, roughly: singular values end in 0.7 to 1.2.

    update: (N, R, C) float32 with R <= C. Returns the same shape.
    """
    a, b, c = NEWTON_SCHULZ
    x: Tensor = update / (update.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT  # (N, R, R)
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, Nesterov, orthogonalised per matrix; for 2-D parameters only.

    A matrix whose longer side is k times the shorter one is stepped by `lr * sqrt(k)`.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for params in by_shape.values():
                self._step_together(params, group)

    def _step_together(self, params: list[Tensor], group: dict[str, float]) -> None:
        updates = []
        for p in params:
            assert p.grad is not None
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(momentum, group["momentum"]))
        rows, columns = params[0].shape
        stacked = torch.stack(updates)
        stacked = orthogonalize(stacked.mT).mT if rows > columns else orthogonalize(stacked)
        scale = (max(rows, columns) / min(rows, columns)) ** 0.5
        for p, update in zip(params, stacked, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * scale)
