"""How a job trains: what was asked for, and what "auto" stands for. No torch here.

The learning rate is a peak: it rises over the first tenth of the steps and falls linearly to a tenth of
itself. Training may end sooner: the held-out loss is watched, and the best step is kept.
"""

import math
from dataclasses import dataclass
from typing import Literal

Adapter = Literal["lora", "full"]
Method = Literal["supervised", "classify", "dpo"]
Auto = Literal["auto"]
Precision = Literal["float32", "bfloat16", "float16"]  # of the passes; what is trained is float32 in all of them

PEAK_LR: dict[Adapter, float] = {"lora": 1e-3, "full": 1.5e-4}
PREFERENCE_SHARE = 0.2  # of that rate, for dpo: it begins at a model that is good already
BETA = 0.1  # of dpo: how dear it is to move away from the model the job started from; the paper's choice
AUTO_BATCH_SIZE = 16
AUTO_STEPS = 160  # about what a few hundred jokes need; fewer jokes are seen more often
MAX_AUTO_EPOCHS = 12
EVALUATIONS = 12  # looks at the held-out jokes in a run
PATIENCE = 4  # looks without a better held-out loss, after which training ends


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the result depends on, model and data aside."""

    adapter: Adapter
    n_epochs: int
    batch_size: int  # examples a step
    learning_rate: float
    seed: int
    warmup_share: float = 0.1
    final_lr_share: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    lora_rank: int = 16
    evaluations: int = EVALUATIONS
    patience: int = PATIENCE
    precision: Precision | Auto = "auto"  # auto: the fastest on the device, measured
    beta: float = BETA  # of dpo
    gradient_checkpointing: bool = False  # computes activations twice instead of keeping them

    def total_steps(self, num_train: int) -> int:
        """Steps of the whole run; the last batch of an epoch may hold fewer examples."""
        return self.n_epochs * math.ceil(num_train / self.batch_size)

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, from 0."""
        warmup = max(1, round(total_steps * self.warmup_share))
        rest = (step - warmup) / max(1, total_steps - warmup)
        return self.learning_rate * min((step + 1) / warmup, 1 - (1 - self.final_lr_share) * max(0.0, rest))

    def eval_every(self, total_steps: int) -> int:
        """Steps between two looks at the held-out jokes."""
        return max(1, total_steps // self.evaluations)


def resolve(
    *,
    num_train: int,
    adapter: Adapter,
    seed: int,
    n_epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    learning_rate_multiplier: float | Auto = "auto",
    gradient_checkpointing: bool = False,
    method: Method = "supervised",
    beta: float | Auto = "auto",
) -> Recipe:
    """Fill in what was left to us."""
    batch = AUTO_BATCH_SIZE if batch_size == "auto" else batch_size
    auto_epochs = max(1, min(MAX_AUTO_EPOCHS, round(AUTO_STEPS * batch / num_train)))
    epochs = auto_epochs if n_epochs == "auto" else n_epochs
    multiplier = 1.0 if learning_rate_multiplier == "auto" else learning_rate_multiplier
    peak = PEAK_LR[adapter] * (PREFERENCE_SHARE if method == "dpo" else 1.0)
    return Recipe(
        adapter,
        epochs,
        batch,
        peak * multiplier,
        seed,
        beta=BETA if beta == "auto" else beta,
        gradient_checkpointing=gradient_checkpointing,
    )
