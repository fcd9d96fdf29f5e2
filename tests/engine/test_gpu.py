"""On a GPU: FP16 by default, float32 equal to the CPU's tokens. Skipped, with the reason, where there is none."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from model_service.engine import device_sampler
from model_service.engine.engine import Engine
from model_service.engine.forward import TorchForward
from model_service.engine.gpu import compiled_parts, gpu_forward, gpu_runner
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import CudaGraphs, EagerGraphs
from model_service.engine.loading import load
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.gpt2 import GPT2
from model_service.models.loading import read_checkpoint
from model_service.models.lora import Host, read_adapter
from tests.engine.test_adapter_places import asking
from tests.engine.test_device_sampler import FILTERS, rows
from tests.engine.test_engine import PROMPTS, ask, greedy, reference
from tests.engine.test_graphs import NUM_SLOTS, run, sequences
from tests.support.adapters import save_adapter
from tests.support.tiny_models import save_tiny_generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
    pytest.mark.filterwarnings("ignore"),  # torch's compiler has many of its own
    pytest.mark.timeout(300),  # the first compilation of layers takes its time
]
DEVICE = "cuda:0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("tiny"))


def model(folder: Path, weights: str = "float32", device: str = DEVICE) -> GPT2:
    return read_checkpoint(str(folder), weights=weights, device=device).model


def captured(model: GPT2) -> GraphRunner:
    return GraphRunner(TorchForward(model, NUM_SLOTS), CudaGraphs(model.device), smallest_context=16)


async def test_float32_on_the_gpu_equals_transformers_in_one_batch(folder: Path) -> None:
    engine = load(str(folder), "generate", model_id="tiny", weights="float32", device=DEVICE)
    assert isinstance(engine, Engine)
    answers = await asyncio.gather(*(ask(engine, text, greedy(30)) for text in PROMPTS))
    for text, answer in zip(PROMPTS, answers, strict=True):
        assert list(answer.token_ids) == reference(folder, text, 30), text
    await engine.close()


async def test_auto_is_half_precision_on_the_first_gpu_and_samples_finite_text(folder: Path) -> None:
    engine = load(str(folder), "generate", model_id="tiny")
    assert isinstance(engine, Engine)
    assert engine.weights == "float16"
    assert dict(engine.device_map) == {"layers 0-1": DEVICE}
    drawn = SamplingParams(max_tokens=20, top_p=0.9, top_k=40, seed=3, logprobs=2)
    quick = SamplingParams(max_tokens=20, top_p=0.9, top_k=40, seed=3)
    answers = await asyncio.gather(*(ask(engine, text, p) for text in PROMPTS for p in (drawn, quick)))
    assert all(answer.finish_reason for answer in answers)
    await engine.close()


def test_float32_graphs_make_the_tokens_of_the_cpu(folder: Path) -> None:
    ours, theirs = sequences(), sequences()
    run(captured(model(folder)), ours)
    run(ModelRunner(TorchForward(model(folder, device="cpu"), NUM_SLOTS)), theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.token_ids == b.token_ids, a.params


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16"])
def test_a_replayed_graph_does_what_its_kernels_do_one_by_one(folder: Path, weights: str) -> None:
    loaded = model(folder, weights)
    replayed, eager = sequences(), sequences()
    run(captured(loaded), replayed)
    run(GraphRunner(TorchForward(loaded, NUM_SLOTS), EagerGraphs(), smallest_context=16), eager)
    assert [s.token_ids for s in replayed] == [s.token_ids for s in eager]


@pytest.mark.parametrize("weights", ["float16", "bfloat16"])
def test_half_precision_logits_are_near_those_of_float32(folder: Path, weights: str) -> None:
    sequence = Sequence(0, list(range(60, 100)), SamplingParams(max_tokens=1, temperature=0), seed=0)
    sequence.slot = 0
    exact = TorchForward(model(folder, device="cpu"), 1)
    expected = exact.logits(exact.hidden([Chunk(sequence, 0, 40)])[-1:])[0]
    runner = captured(model(folder, weights))
    for position in range(40):
        runner.step([Chunk(sequence, position, position + 1)])
    error = (runner._step._logits[0].cpu() - expected).norm() / expected.norm()
    assert error < {"float16": 0.01, "bfloat16": 0.05}[weights]


def test_captured_prompts_make_the_same_float32_tokens(folder: Path) -> None:
    loaded = model(folder)
    ours, plain = sequences(), sequences()
    run(ModelRunner(gpu_forward(loaded, NUM_SLOTS)), ours)
    run(ModelRunner(TorchForward(loaded, NUM_SLOTS)), plain)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


def test_compiled_layers_make_the_same_float32_tokens(folder: Path) -> None:
    loaded = model(folder)
    compiled, plain = sequences(6), sequences(6)
    runner = GraphRunner(TorchForward(loaded, 1), CudaGraphs(loaded.device), smallest_context=16)
    runner.use_parts(1, compiled_parts(loaded.parts))
    run(runner, compiled, num_slots=1)
    run(ModelRunner(TorchForward(loaded, 1)), plain, num_slots=1)
    assert [s.token_ids for s in compiled] == [s.token_ids for s in plain]


def test_captured_adapters_make_the_same_float32_tokens(folder: Path, tmp_path: Path) -> None:
    loaded = model(folder)
    forward = TorchForward(loaded, NUM_SLOTS)
    adapters = [
        read_adapter(str(i), save_adapter(tmp_path / str(i), folder, i, strength=0.3), Host.of(loaded))
        for i in range(3)
    ]
    ours, plain = asking(adapters), asking(adapters)
    run(GraphRunner(forward, CudaGraphs(loaded.device), smallest_context=16), ours)
    run(ModelRunner(TorchForward(loaded, NUM_SLOTS)), plain)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Turn every operation that makes the host wait for the GPU into an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("params", [greedy(20), SamplingParams(), SamplingParams(top_p=0.9, top_k=20)])
def test_no_operation_of_a_step_waits_for_the_gpu(folder: Path, params: SamplingParams) -> None:
    runner = gpu_runner(gpu_forward(model(folder, "float16"), 4))
    batch = [Sequence(i, [1, 2, 3, 4, 5, 6], params, seed=i) for i in range(3)]
    for slot, sequence in enumerate(batch):
        sequence.slot = slot
    with no_waiting():
        for position in range(5):  # a first step, steps that go on, and one whose rows have changed
            results = runner.step([Chunk(s, position, position + 1) for s in batch])
            assert len(results) == len(batch)
        results = runner.step([Chunk(s, 5, 6) for s in batch[:2]])
    assert all(r.finite and r.token_id is not None for r in results)


def test_draws_on_the_gpu_are_those_of_the_cpu() -> None:
    logits = torch.randn(len(FILTERS) * 50, 5000, generator=torch.Generator().manual_seed(0)) * 2
    here = rows(FILTERS * 50, list(range(len(logits))))
    there = device_sampler.Rows(*(getattr(here, name).to(DEVICE) for name in device_sampler.Rows.__slots__))
    for candidates in (0, 512, 5000):
        expected = device_sampler.draw(logits, here, candidates=candidates)
        drawn = device_sampler.draw(logits.to(DEVICE), there, candidates=candidates).cpu()
        assert (drawn == expected).float().mean() >= 0.99, "only draws on a border to the last digit may differ"


def test_steps_allocate_nothing_that_stays(folder: Path) -> None:
    runner = gpu_runner(gpu_forward(model(folder, "float16"), NUM_SLOTS))
    run(runner, sequences())
    before = torch.cuda.memory_allocated(DEVICE)
    run(runner, sequences())
    assert torch.cuda.memory_allocated(DEVICE) == before


async def test_slots_are_fewer_where_the_memory_does_not_hold_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = (2 << 30) + 40 * 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", torch.cuda.memory_allocated)
    engine = load(str(folder), "generate", model_id="tiny", device=DEVICE, max_num_seqs=100_000)
    assert isinstance(engine, Engine)
    assert 1 <= engine.config.max_num_seqs < 100_000
    assert f"{engine.config.max_num_seqs} sequences at a time instead of 100000" in caplog.text
    await engine.close()


async def test_a_model_loads_beside_one_that_answers(folder: Path) -> None:
    first = load(str(folder), "generate", model_id="a", weights="float32", device=DEVICE)
    assert isinstance(first, Engine)
    answering = asyncio.gather(*(ask(first, text, greedy(30)) for text in PROMPTS * 4))
    second = await asyncio.to_thread(
        load, str(folder), "generate", model_id="b", weights="float32", device=DEVICE, max_num_seqs=3
    )
    assert isinstance(second, Engine)
    answers = [*await answering, *await asyncio.gather(*(ask(second, text, greedy(30)) for text in PROMPTS))]
    for text, answer in zip(PROMPTS * 5, answers, strict=True):
        assert list(answer.token_ids) == reference(folder, text, 30), text
    await first.close()
    await second.close()
