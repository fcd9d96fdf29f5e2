"""The known failure, and that ours does not have it: `model.half()` with AdamW ends in weights that are no numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from model_service.training import precision
from model_service.training.base_model import trainable
from model_service.training.checkpoints import Checkpoints
from model_service.training.dataset import Encoded, Example, encode
from model_service.training.evaluate import finite
from model_service.training.loop import Loop
from model_service.training.objective import Look, Material
from model_service.training.recipe import Precision, Recipe
from tests.support.tiny_models import byte_tokenizer, tiny_config
from tests.support.training_jobs import make_rows

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, BATCH, LEARNING_RATE = 30, 8, 3e-3


@pytest.fixture(scope="module")
def jokes() -> list[Encoded]:
    examples = [Example(row.prompt, row.completion) for row in make_rows(STEPS * BATCH // 3)]
    return encode(examples, byte_tokenizer().backend_tokenizer, 256)


def tiny_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(tiny_config())


def losses_of_the_broken_way(model: GPT2LMHeadModel, jokes: list[Encoded]) -> list[float]:
    """Train as the literature's notebook does: FP16 weights, AdamW on them, no scaler; one joke at a time."""
    model.half().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for joke in jokes[:STEPS]:
        input_ids = torch.tensor([joke.input_ids])
        loss: Tensor = model(input_ids=input_ids, labels=input_ids).loss
        losses.append(float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return losses


class Notes:
    """Keeps the losses of a loop."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        self.losses.append(loss)

    def look(self, look: Look, total_steps: int, is_best: bool) -> None:
        pass

    def warn(self, message: str) -> None:
        raise AssertionError(message)


def test_fp16_weights_under_adamw_are_no_numbers_after_30_steps(jokes: list[Encoded]) -> None:
    model = tiny_model()
    losses = losses_of_the_broken_way(model, jokes)
    assert losses[0] < 6
    assert not finite(model.state_dict())
    assert not torch.tensor(losses).isfinite().all()


@pytest.mark.parametrize("computes", ["float32", "bfloat16", "float16"])
def test_float32_weights_stay_finite_and_learn_whatever_the_passes_compute_in(
    jokes: list[Encoded], tmp_path: Path, computes: Precision
) -> None:
    model, notes = tiny_model(), Notes()
    recipe = Recipe("full", 3, BATCH, LEARNING_RATE, 0, evaluations=1, precision=computes)
    material = Material(jokes, jokes[:8], jokes[:8], 128)
    loop = Loop(
        model,
        recipe,
        material,
        Checkpoints(tmp_path),
        notes,
        check=lambda: None,
        checkpoint_every_s=1000.0,
        computes=computes,
    )
    loop.run()
    assert len(notes.losses) == STEPS
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert finite(model.state_dict())
    assert notes.losses[-1] < 0.8 * notes.losses[0]
    assert loop.looks[-1].val_loss < 0.8 * loop.looks[0].val_loss


def test_only_fp16_scales_its_gradients() -> None:
    cpu = torch.device("cpu")
    assert precision.scaler("float16", cpu).is_enabled()
    assert not precision.scaler("bfloat16", cpu).is_enabled()
    assert not precision.scaler("float32", cpu).is_enabled()
