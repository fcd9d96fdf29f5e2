"""The engine on real tiny models: right to the token, whatever shares the batch."""

import asyncio
import threading
from collections.abc import AsyncIterator
from collections.abc import Sequence as Seq
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from model_service.engine.engine import Engine
from model_service.engine.engine_config import EngineConfig
from model_service.engine.flights import InTurn
from model_service.engine.loading import load
from model_service.engine.runner import Result
from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.engine.sequence import Piece, SamplingParams
from model_service.engine.stream import Stream
from model_service.errors import EngineDead, PromptTooLong, QueueFull, ServiceError
from tests.support.tiny_models import byte_tokenizer, save_tiny_generator

PROMPTS = ["JOKE:", "a", "Why did the chicken cross the road?", "x" * 90, "héllo wörld 😀", "JOKE: one two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[Engine]:
    engine = load(str(folder), "generate", model_id="tiny", weights="float32", max_num_seqs=4, max_queue=3)
    assert isinstance(engine, Engine)
    yield engine
    await engine.close()


def greedy(max_tokens: int, **changes: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, **changes)  # type: ignore[arg-type]


async def read(stream: Stream) -> Piece:
    """Read a stream to its end as one piece."""
    whole = Piece()
    async with asyncio.timeout(20), stream:
        async for piece in stream:
            whole = whole + piece
    return whole


async def ask(engine: Engine, text: str, params: SamplingParams) -> Piece:
    return await read(engine.submit(engine.encode(text), params))


def reference(folder: Path, text: str, max_tokens: int) -> list[int]:
    """transformers' own greedy answer."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([byte_tokenizer().encode(text)])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False)
    answer = out[0, ids.shape[1] :].tolist()
    return answer[: answer.index(256)] if 256 in answer else answer


async def test_greedy_equals_transformers_for_several_prompts_in_one_batch(engine: Engine, folder: Path) -> None:
    answers = await asyncio.gather(*(ask(engine, text, greedy(30)) for text in PROMPTS))
    for text, answer in zip(PROMPTS, answers, strict=True):
        assert list(answer.token_ids) == reference(folder, text, 30), text


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"activation_function": "relu"},
        {"n_inner": 50},
        {"tie_word_embeddings": False},
    ],
)
async def test_config_switches_are_honoured(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = save_tiny_generator(tmp_path, **changes)
    engine = load(str(folder), "generate", model_id="tiny", weights="float32")
    assert isinstance(engine, Engine)
    answer = await ask(engine, "JOKE: two men", greedy(25))
    await engine.close()
    assert list(answer.token_ids) == reference(folder, "JOKE: two men", 25)


async def test_a_seed_repeats_alone_and_among_strangers(engine: Engine) -> None:
    params = SamplingParams(max_tokens=40, temperature=1.0, top_p=0.9, seed=5)
    alone = await ask(engine, "JOKE:", params)
    strangers = [ask(engine, text, SamplingParams(max_tokens=9 + i)) for i, text in enumerate(PROMPTS)]
    among = (await asyncio.gather(ask(engine, "JOKE:", params), *strangers))[0]
    other = await ask(engine, "JOKE:", SamplingParams(max_tokens=40, temperature=1.0, top_p=0.9, seed=6))
    assert alone.token_ids == among.token_ids != other.token_ids


async def test_text_is_the_tokens_decoded(engine: Engine) -> None:
    answer = await ask(engine, "JOKE:", SamplingParams(max_tokens=60, seed=1))
    assert answer.text == byte_tokenizer().decode(list(answer.token_ids))


async def test_a_stop_string_over_token_borders_ends_the_answer_before_it(engine: Engine) -> None:
    whole = await ask(engine, "JOKE:", greedy(40))
    stop = whole.text[10:13]  # three one-byte tokens
    answer = await ask(engine, "JOKE:", greedy(40, stop=(stop,)))
    assert answer.finish_reason == "stop"
    assert answer.text == whole.text[: whole.text.index(stop)]


async def test_echo_with_logprobs_returns_the_prompts(engine: Engine, folder: Path) -> None:
    answer = await ask(engine, "JOKE: hi", greedy(0, echo=True, logprobs=2))
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([byte_tokenizer().encode("JOKE: hi")])
    with torch.no_grad():
        expected = torch.log_softmax(model(ids).logits[0], -1)
    assert answer.text == "JOKE: hi"
    assert answer.logprobs[0].logprob is None
    for i, entry in enumerate(answer.logprobs[1:]):
        assert entry.logprob == pytest.approx(expected[i, ids[0, i + 1]].item(), abs=1e-4)
        assert len(entry.top) == 2
    assert answer.finish_reason == "length"


async def test_leaving_early_frees_the_slot(engine: Engine) -> None:
    async with asyncio.timeout(20):
        streams = [engine.submit([1, 2], greedy(100)) for _ in range(4)]
        for stream in streams:
            async with stream:
                async for _ in stream:
                    break
        assert (await ask(engine, "a", greedy(2))).finish_reason
        assert engine.num_running == engine.num_waiting == 0


async def test_what_does_not_fit_is_refused_with_the_numbers(engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match="context is 128 tokens, but the prompt has 100 and max_tokens asks for 29"):
        engine.submit([1] * 100, greedy(29))
    assert len((await read(engine.submit([1] * 100, greedy(28)))).token_ids) <= 28


async def test_a_full_queue_refuses_and_a_waiting_stream_knows_its_place(engine: Engine) -> None:
    streams = [engine.submit([1], greedy(100)) for _ in range(7)]
    assert [s.position for s in streams[-3:]] == [5, 6, 7]  # before the engine's first step all wait
    with pytest.raises(QueueFull):
        engine.submit([1], greedy(1))
    for stream in streams:
        stream.close()
    assert (await ask(engine, "a", greedy(1))).finish_reason


async def test_closing_ends_open_streams_and_refuses_new_ones(folder: Path) -> None:
    engine = load(str(folder), "generate", model_id="tiny", weights="float32")
    assert isinstance(engine, Engine)
    stream = engine.submit([1], greedy(100))
    await engine.close()
    with pytest.raises(EngineDead):
        await read(stream)
    with pytest.raises(EngineDead):
        engine.submit([1], greedy(1))
    assert not any(t.name == "engine-tiny" for t in threading.enumerate())


class ScriptedRunner:
    """Answers 100, 101, … for each sequence; breaks in a chosen way on prompts that begin with a chosen token."""

    def __init__(self) -> None:
        self.moves: list[Move] = []

    def step(self, chunks: Seq[Chunk]) -> list[Result]:
        if any(c.sequence.token_ids[0] == 66 for c in chunks):
            raise RuntimeError("out of memory")
        return [
            Result(c.sequence, finite=False)
            if c.sequence.token_ids[0] == 13
            else Result(c.sequence, 100 + c.sequence.num_generated if c.samples else None)
            for c in chunks
        ]

    def move(self, move: Move) -> None:
        self.moves.append(move)

    def copy(self, copy: Copy) -> None:
        pass

    def clear(self, slot: int) -> None:
        pass


@pytest.fixture
async def scripted() -> AsyncIterator[Engine]:
    config = EngineConfig("scripted", context_len=1000, vocab_size=257, eos_token_id=256, max_num_seqs=2)
    engine = Engine(config, InTurn(ScriptedRunner()), byte_tokenizer().backend_tokenizer)
    yield engine
    await engine.close()


async def test_broken_numbers_fail_that_request_alone(scripted: Engine) -> None:
    good, bad = scripted.submit([1], greedy(5)), scripted.submit([13], greedy(5))
    with pytest.raises(ServiceError, match="numbers broke"):
        await read(bad)
    assert (await read(good)).token_ids == (100, 101, 102, 103, 104)


async def test_a_failing_step_ends_its_sequences_and_the_engine_goes_on(scripted: Engine) -> None:
    with pytest.raises(ServiceError, match="failed while"):
        await read(scripted.submit([66], greedy(5)))
    assert len((await read(scripted.submit([1], greedy(5)))).token_ids) == 5


async def test_an_engine_that_keeps_failing_is_dead_and_says_so(scripted: Engine) -> None:
    for _ in range(3):
        with pytest.raises(ServiceError):
            await read(scripted.submit([66], greedy(5)))
    with pytest.raises(EngineDead):
        scripted.submit([1], greedy(5))
    assert not scripted.alive


async def test_a_slow_reader_gets_everything_merged(scripted: Engine) -> None:
    slow = scripted.submit([1], greedy(20))
    await read(scripted.submit([1], greedy(40)))  # meanwhile the slow one's 20 tokens have come
    pieces = [piece async for piece in slow]
    assert len(pieces) == 1
    assert pieces[0].token_ids == tuple(range(100, 120))
