"""GPT-2's real shapes with random weights: the same tokens as transformers, long prompts read in chunks."""

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from model_service.engine.engine import Engine
from model_service.engine.forward import TorchForward
from model_service.engine.loading import load
from model_service.engine.runner import ModelRunner
from model_service.engine.sequence import Sequence
from tests.engine.test_architectures import likeliest
from tests.engine.test_engine import greedy, read
from tests.engine.test_graphs import run
from tests.support.tiny_models import byte_tokenizer, decoder_of


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


def filled(config: GPT2Config) -> GPT2LMHeadModel:
    """A model with random weights; drawing each of them anew would take longer than all else here."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    model.to_empty(device="cpu").tie_weights()
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)) * 0.08  # a prime: rows never repeat
    with torch.no_grad():
        for parameter in model.parameters():
            repeats = -(-parameter.numel() // len(noise))
            parameter.copy_(noise.repeat(repeats)[: parameter.numel()].view(parameter.shape))
        for name, parameter in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def test_gpt2_medium_says_what_transformers_says() -> None:
    reference = filled(GPT2Config(n_layer=24, n_embd=1024, n_head=16))
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 50257, (n,), generator=generator).tolist() for n in (2, 30)]
    sequences = [Sequence(i, list(prompt), greedy(4), seed=0) for i, prompt in enumerate(prompts)]
    run(ModelRunner(TorchForward(decoder_of(reference), 2)), sequences, every=1, num_slots=2)
    for prompt, sequence in zip(prompts, sequences, strict=True):
        answer = sequence.token_ids[len(prompt) :]
        assert answer == likeliest(reference, prompt, answer)
        assert len(set(answer)) > 1
