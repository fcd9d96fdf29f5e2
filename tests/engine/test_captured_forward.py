"""Short passes as a GPU captures them, run here without capture: the plain numbers, and nobody's cache hurt."""

from pathlib import Path

import pytest
import torch

from model_service.engine.captured_forward import RECTANGLES, CapturedForward
from model_service.engine.forward import TorchForward
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import EagerGraphs
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.gpt2 import GPT2
from model_service.models.loading import read_checkpoint
from model_service.models.lora import Host, read_adapter
from tests.engine.test_graphs import NUM_SLOTS, Counted, run, sequences
from tests.support.adapters import save_adapter
from tests.support.tiny_models import save_tiny_generator

CONTEXT_LEN = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("tiny"), n_positions=CONTEXT_LEN)


@pytest.fixture(scope="module")
def model(folder: Path) -> GPT2:
    return read_checkpoint(str(folder)).model


def chunk(slot: int, start: int, end: int, adapter: object = None) -> Chunk:
    """Of a sequence with tokens that only its slot has."""
    ids = [(slot * 31 + i * 7) % 256 for i in range(end)]
    sequence = Sequence(slot, ids, SamplingParams(), seed=0, adapter=adapter)  # type: ignore[arg-type]
    sequence.slot = slot
    return Chunk(sequence, start, end)


def pair(model: GPT2, graphs: EagerGraphs | None = None) -> tuple[CapturedForward, TorchForward]:
    """Both with the same noise in their caches, as if sequences had been there."""
    ours, plain = CapturedForward(model, 20, graphs or EagerGraphs()), TorchForward(model, 20)
    for a, b in zip(ours.cache.pairs.values(), plain.cache.pairs.values(), strict=True):
        a.copy_(torch.randn(a.shape, generator=torch.Generator().manual_seed(1)))
        b.copy_(a)
    return ours, plain


@torch.inference_mode()
@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(3, 0, 5)],
        [chunk(0, 40, 60)],
        [chunk(7, 100, 101)],
        [chunk(2, 90, 91), chunk(5, 0, 16), chunk(1, 10, 13)],
        [chunk(slot, slot, slot + 3 + slot % 4) for slot in range(15)],
        [chunk(4, 0, CONTEXT_LEN - 200), chunk(9, 0, 2)],
        [chunk(6, CONTEXT_LEN - 10, CONTEXT_LEN), chunk(8, 0, 2)],  # filled up, and yet right in its last position
    ],
    ids=["prompt", "middle", "one token", "mixed", "many", "long", "full context"],
)
def test_a_rectangle_gives_the_plain_numbers_and_writes_the_plain_cache(model: GPT2, chunks: list[Chunk]) -> None:
    ours, plain = pair(model)
    torch.testing.assert_close(ours.hidden(chunks), plain.hidden(chunks), rtol=1e-4, atol=1e-4)
    last = CONTEXT_LEN - 1
    written = {c.sequence.slot for c in chunks if c.end == CONTEXT_LEN}
    for a, b in zip(ours.cache.pairs.values(), plain.cache.pairs.values(), strict=True):
        torch.testing.assert_close(a[:, :, :, :last], b[:, :, :, :last], rtol=1e-4, atol=1e-4)
        for slot in written:
            torch.testing.assert_close(a[:, slot, :, last], b[:, slot, :, last], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_second_pass_finds_what_the_first_one_wrote(model: GPT2) -> None:
    graphs = Counted()
    ours, plain = pair(model, graphs)
    for start, end in ((0, 20), (20, 33), (33, 34), (34, 120)):
        chunks = [chunk(2, start, end), chunk(11, start, end)]
        if end - start == 1:
            chunks.append(chunk(5, 3, 4))
        torch.testing.assert_close(ours.hidden(chunks), plain.hidden(chunks), rtol=1e-4, atol=1e-4)
    assert graphs.captured == 3, "(4, 64), (4, 16) and, from position 34 on, (4, 256)"


@torch.inference_mode()
def test_what_fits_no_rectangle_and_adapters_run_as_ever(model: GPT2, folder: Path, tmp_path: Path) -> None:
    graphs = Counted()
    ours, plain = pair(model, graphs)
    adapter = read_adapter("a", save_adapter(tmp_path / "a", folder), Host.of(model))
    for chunks in ([chunk(1, 0, 4, adapter), chunk(2, 0, 3)], [chunk(0, 0, 520)]):
        torch.testing.assert_close(ours.hidden(chunks), plain.hidden(chunks), rtol=1e-4, atol=1e-4)
    assert graphs.captured == 0


def test_after_warm_up_no_pass_captures_anything(model: GPT2) -> None:
    graphs = Counted()
    forward = CapturedForward(model, NUM_SLOTS, graphs)
    forward.warm_up()
    contexts = {tokens: sum(c >= tokens for c in (128, 512, CONTEXT_LEN)) for _, tokens in RECTANGLES}
    assert graphs.captured == sum(contexts[tokens] for _, tokens in RECTANGLES)
    runner = GraphRunner(forward, graphs)
    runner.warm_up()
    captured = graphs.captured
    ours, plain = sequences(), sequences()
    run(runner, ours)
    assert graphs.captured == captured
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids == b.token_ids, a.params
