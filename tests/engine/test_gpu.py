"""On a GPU: FP16 by default, float32 equal to the CPU's tokens. Skipped, with the reason, where there is none."""

import asyncio
from pathlib import Path

import pytest
import torch

from model_service.engine.engine import Engine
from model_service.engine.loading import load
from model_service.engine.sequence import SamplingParams
from tests.engine.test_engine import PROMPTS, ask, greedy, reference
from tests.support.tiny_models import save_tiny_generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("tiny"))


async def test_float32_on_the_gpu_equals_transformers_in_one_batch(folder: Path) -> None:
    engine = load(str(folder), "generate", model_id="tiny", weights="float32", device="cuda:0")
    assert isinstance(engine, Engine)
    answers = await asyncio.gather(*(ask(engine, text, greedy(30)) for text in PROMPTS))
    for text, answer in zip(PROMPTS, answers, strict=True):
        assert list(answer.token_ids) == reference(folder, text, 30), text
    await engine.close()


async def test_auto_is_half_precision_on_the_first_gpu_and_samples_finite_text(folder: Path) -> None:
    engine = load(str(folder), "generate", model_id="tiny")
    assert isinstance(engine, Engine)
    assert engine.weights == "float16"
    assert dict(engine.device_map) == {"layers 0-1": "cuda:0"}
    drawn = SamplingParams(max_tokens=20, top_p=0.9, top_k=40, seed=3, logprobs=2)
    answers = await asyncio.gather(*(ask(engine, text, drawn) for text in PROMPTS))
    assert all(answer.finish_reason for answer in answers)
    await engine.close()
