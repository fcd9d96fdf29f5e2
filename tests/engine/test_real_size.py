"""GPT-2's real shape with random weights: the same tokens as transformers, long prompts read in chunks."""

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from model_service.engine.engine import Engine
from model_service.engine.loading import load
from tests.engine.test_engine import greedy, read
from tests.support.tiny_models import byte_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT2LMHeadModel, Path]:
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    # GPT-2 small's width and depth; larger weights than its initialisation, so that no two tokens are near a tie
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=256, eos_token_id=256, initializer_range=0.08)).eval()
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model, folder


async def test_real_size_greedy_equals_transformers_in_one_batch(model: tuple[GPT2LMHeadModel, Path]) -> None:
    reference, folder = model
    engine = load(str(folder), "generate", model_id="gpt2", weights="float32", max_num_seqs=4)
    assert isinstance(engine, Engine)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 50257, (1, n), generator=generator) for n in (1, 8, 300)]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(read(engine.submit(p[0].tolist(), greedy(8))) for p in prompts))
    await engine.close()
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            out = reference.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        assert list(answer.token_ids) == out[0, prompt.shape[1] :].tolist()
