"""GPT-J, and parts of models, on a GPU: captured passes, and the kernels of attention that they run."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model_service.engine.captured_forward import CapturedForward
from model_service.engine.engine import Engine
from model_service.engine.engine_config import Stage
from model_service.engine.forward import Forward, TorchForward
from model_service.engine.gpu import compiled_parts, gpu_forward, gpu_runner
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import CudaGraphs, EagerGraphs
from model_service.engine.loading import load
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.models.decoder import Decoder
from model_service.models.loading import open_checkpoint, read_checkpoint
from tests.engine.test_captured_forward import chunk
from tests.engine.test_engine import PROMPTS, ask, greedy
from tests.engine.test_gpu import no_waiting
from tests.engine.test_graphs import NUM_SLOTS, run, sequences
from tests.support.tiny_models import save_tiny_generator, save_tiny_gptj

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
    pytest.mark.filterwarnings("ignore"),  # torch's compiler has many of its own
    pytest.mark.timeout(300),  # the first compilation of layers takes its time
]
DEVICE = "cuda:0"
SLOTS = 20
STEPS = [  # prompts, micro-batches of single tokens in several places, single tokens beside a prompt
    [chunk(slot, 0, 3 + slot) for slot in range(SLOTS)],
    [chunk(slot, 3 + slot, 4 + slot) for slot in range(7)],
    [chunk(slot, 3 + slot, 4 + slot) for slot in range(7, 16)],
    [chunk(0, 4, 5), chunk(19, 22, 23), chunk(16, 19, 90)],
    [chunk(3, 7, 8), chunk(16, 90, 91)],
]
Save = Callable[..., Path]


@pytest.fixture(scope="module", params=[save_tiny_generator, save_tiny_gptj], ids=["gpt2", "gptj"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("tiny"), n_layer=4)
    return made


@pytest.fixture(scope="module")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gptj(tmp_path_factory.mktemp("gptj"))


def model(folder: Path, weights: str = "float32", device: str = DEVICE) -> Decoder:
    return read_checkpoint(str(folder), weights=weights, device=device).model


def parts(folder: Path, weights: str) -> list[Decoder]:
    opened = open_checkpoint(str(folder))
    return [opened.read(weights, DEVICE, layers) for layers in (range(1), range(1, 3), range(3, 4))]


@torch.inference_mode()
def through(forwards: list[Forward], steps: list[list[Chunk]] = STEPS) -> Tensor:
    """Return the logits of all steps, on the CPU."""
    found = []
    for chunks in steps:
        x = None
        for forward in forwards:
            x = forward.hidden(chunks, x)
        assert x is not None
        found.append(forwards[-1].logits(x).cpu())
    return torch.cat(found)


def test_gptj_graphs_make_the_float32_tokens_of_the_cpu(gptj: Path) -> None:
    ours, theirs = sequences(), sequences()
    loaded = model(gptj)
    run(GraphRunner(TorchForward(loaded, NUM_SLOTS), CudaGraphs(loaded.device), smallest_context=16), ours)
    run(ModelRunner(TorchForward(model(gptj, device="cpu"), NUM_SLOTS)), theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.token_ids == b.token_ids, a.params


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16"])
def test_replayed_gptj_graphs_do_what_their_kernels_do_one_by_one(gptj: Path, weights: str) -> None:
    loaded = model(gptj, weights)
    replayed, eager = sequences(), sequences()
    run(GraphRunner(TorchForward(loaded, NUM_SLOTS), CudaGraphs(loaded.device), smallest_context=16), replayed)
    run(GraphRunner(TorchForward(loaded, NUM_SLOTS), EagerGraphs(), smallest_context=16), eager)
    assert [s.token_ids for s in replayed] == [s.token_ids for s in eager]


def test_compiled_gptj_layers_make_the_same_float32_tokens(gptj: Path) -> None:
    loaded = model(gptj)
    compiled, plain = sequences(6), sequences(6)
    runner = GraphRunner(TorchForward(loaded, 1), CudaGraphs(loaded.device), smallest_context=16)
    runner.use_parts(1, compiled_parts(loaded.parts))
    run(runner, compiled, num_slots=1)
    run(ModelRunner(TorchForward(loaded, 1)), plain, num_slots=1)
    assert [s.token_ids for s in compiled] == [s.token_ids for s in plain]


@pytest.mark.parametrize(("weights", "limit"), [("float32", 1e-4), ("float16", 0.01), ("bfloat16", 0.05)])
def test_captured_parts_on_one_gpu_are_near_the_whole_model_on_the_cpu(
    folder: Path, weights: str, limit: float
) -> None:
    forwards = [gpu_forward(part, SLOTS) for part in parts(folder, weights)]
    exact = through([TorchForward(model(folder, device="cpu"), SLOTS)])
    found = through([*forwards])
    assert (found - exact).norm() < limit * exact.norm()
    assert all(len(forward.graphs._captured) > 0 for forward in forwards)  # type: ignore[attr-defined]


def test_replayed_parts_do_what_their_kernels_do_one_by_one(folder: Path) -> None:
    replayed = [gpu_forward(part, SLOTS) for part in parts(folder, "float16")]
    eager = [CapturedForward(part, SLOTS, EagerGraphs()) for part in parts(folder, "float16")]
    found, expected = through([*replayed]), through([*eager])
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_no_pass_of_a_part_waits_for_the_gpu(folder: Path) -> None:
    forwards = [gpu_forward(part, SLOTS) for part in parts(folder, "float16")]
    with torch.inference_mode(), no_waiting():
        for chunks in STEPS[1:]:  # the first one fits no rectangle
            x = None
            for forward in forwards:
                x = forward.hidden(chunks, x)


async def test_two_stages_on_one_gpu_answer_as_the_whole_model_does(folder: Path) -> None:
    stages = (Stage(DEVICE, range(2)), Stage(DEVICE, range(2, 4)))
    split = load(str(folder), "generate", model_id="split", weights="float32", stages=stages, max_num_seqs=SLOTS)
    whole = load(str(folder), "generate", model_id="whole", weights="float32", device=DEVICE)
    assert isinstance(split, Engine)
    assert isinstance(whole, Engine)
    asked = PROMPTS * 3
    ours = await asyncio.gather(*(ask(split, text, greedy(30)) for text in asked))
    theirs = await asyncio.gather(*(ask(whole, text, greedy(30)) for text in asked))
    assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]
    await split.close()
    await whole.close()


@pytest.mark.parametrize("weights", ["float16", "bfloat16"])
def test_attention_runs_flash_or_memory_efficient_kernels_everywhere(folder: Path, weights: str) -> None:
    """torch raises where none of the allowed kernels takes what it is given."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        run(gpu_runner(gpu_forward(model(folder, weights), NUM_SLOTS)), sequences())
        through([gpu_forward(part, SLOTS) for part in parts(folder, weights)])
        through([TorchForward(part, SLOTS) for part in parts(folder, weights)])
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        through([TorchForward(model(folder, weights), SLOTS)], [[chunk(0, 0, 60)]])  # the beginning of a prompt
