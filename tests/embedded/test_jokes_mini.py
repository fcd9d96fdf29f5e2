"""The shipped `jokes-mini`: what its files hold, what its card promises, and that it tells jokes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import GPT2LMHeadModel

from model_service.engine.engine import Engine
from model_service.engine.loading import load
from model_service.engine.sequence import Piece, SamplingParams
from model_service.models.loading import read_tokenizer
from model_service.training.joke_texts import read_jokes
from model_service.training.pretrain_jokes import bits_per_character
from tests.engine.test_engine import read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "model_service" / "embedded" / "jokes-mini"
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = load(str(FOLDER), "generate", model_id="jokes-mini")
    assert isinstance(engine, Engine)
    yield engine
    await engine.close()


async def tell(engine: Engine, prompt: str, count: int) -> list[Piece]:
    """One joke per seed, as the bot asks for them."""
    asked = [SamplingParams(max_tokens=96, temperature=0.8, top_p=0.95, seed=seed) for seed in range(count)]
    return await asyncio.gather(*(read(engine.submit(engine.encode(prompt), params)) for params in asked))


def test_is_a_gpt2_in_half_precision_of_at_most_16_mb() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["n_positions"] >= 256
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    with safe_open(weights, "pt") as tensors:
        held = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118 (not a dict)
    assert {t.dtype for t in held} == {torch.float16}
    assert all(bool(t.isfinite().all()) for t in held)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not at {DATA}")
def test_the_card_and_the_figures_say_what_is_measured(figures: dict[str, Any]) -> None:
    model = GPT2LMHeadModel.from_pretrained(FOLDER, dtype=torch.float32)
    jokes = read_jokes(DATA / "jokes_dev.csv.gz")
    measured = bits_per_character(model, read_tokenizer(FOLDER), jokes, model.config.n_positions)
    assert measured == pytest.approx(figures["bits_per_character"], abs=0.002)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {figures['bits_per_character']:.3f} |" in card
    assert f"{figures['parameters']:,} parameters" in card


async def test_most_jokes_come_to_an_end_and_no_two_seeds_tell_the_same(engine: Engine) -> None:
    jokes = await tell(engine, "JOKE:", 24)
    assert sum(joke.finish_reason == "stop" for joke in jokes) >= 22
    assert len({joke.text for joke in jokes}) == 24
    assert all(len(joke.text.split()) >= 3 for joke in jokes)


async def test_a_topic_is_taken_up_more_often_than_by_chance(engine: Engine) -> None:
    """It is no promise for one joke: a small model hears about a topic in one joke of a few."""
    plain = await tell(engine, "JOKE:", 48)
    taken_up = by_chance = 0
    for topic in ("wife", "doctor", "chicken"):
        taken_up += sum(topic in joke.text.lower() for joke in await tell(engine, f"JOKE about {topic}:", 48))
        by_chance += sum(topic in joke.text.lower() for joke in plain)
    assert taken_up >= 2 * max(by_chance, 8), (taken_up, by_chance)


async def test_any_text_is_continued_up_to_the_last_position(engine: Engine) -> None:
    prompt = engine.encode("Once upon a time")
    never_ends = SamplingParams(
        max_tokens=engine.context_len - len(prompt), seed=1, logit_bias=((0, float("-inf")),), top_p=0.9
    )
    answer = await read(engine.submit(prompt, never_ends))
    assert answer.finish_reason == "length"
    words = answer.text.split()
    assert len(set(words)) > len(words) / 3, "it does not fall into a loop"
