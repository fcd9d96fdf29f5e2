"""Short passes as a GPU captures them, run here without capture: the plain numbers, and nobody's cache hurt."""

from pathlib import Path

import pytest
import torch

from model_service.engine.captured_forward import RECTANGLES, CapturedForward, rectangles, windows
from model_service.engine.forward import TorchForward
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import EagerGraphs
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.decoder import Decoder
from model_service.models.loading import read_checkpoint
from model_service.models.lora import Host, read_adapter
from tests.engine.test_graphs import NUM_SLOTS, Counted, run, sequences
from tests.support.adapters import save_adapter
from tests.support.recorded_graphs import RecordedGraphs
from tests.support.tiny_models import decoder_of, save_tiny_generator, save_tiny_gptj, tiny_gptj

CONTEXT_LEN = 600
PART_SLOTS = 20  # blocks of four


@pytest.fixture(scope="module", params=[save_tiny_generator, save_tiny_gptj], ids=["gpt2", "gptj"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("tiny"), n_positions=CONTEXT_LEN)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return read_checkpoint(str(folder)).model


def chunk(slot: int, start: int, end: int, adapter: object = None) -> Chunk:
    """Of a sequence with tokens that only its slot has."""
    ids = [(slot * 31 + i * 7) % 256 for i in range(end)]
    sequence = Sequence(slot, ids, SamplingParams(), seed=0, adapter=adapter)  # type: ignore[arg-type]
    sequence.slot = slot
    return Chunk(sequence, start, end)


def pair(model: Decoder, graphs: EagerGraphs | None = None) -> tuple[CapturedForward, TorchForward]:
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
def test_a_rectangle_gives_the_plain_numbers_and_writes_the_plain_cache(model: Decoder, chunks: list[Chunk]) -> None:
    ours, plain = pair(model)
    torch.testing.assert_close(ours.hidden(chunks), plain.hidden(chunks), rtol=1e-4, atol=1e-4)
    last = CONTEXT_LEN - 1
    written = {c.sequence.slot for c in chunks if c.end == CONTEXT_LEN}
    for a, b in zip(ours.cache.pairs.values(), plain.cache.pairs.values(), strict=True):
        torch.testing.assert_close(a[:, :, :, :last], b[:, :, :, :last], rtol=1e-4, atol=1e-4)
        for slot in written:
            torch.testing.assert_close(a[:, slot, :, last], b[:, slot, :, last], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_second_pass_finds_what_the_first_one_wrote(model: Decoder) -> None:
    graphs = Counted()
    ours, plain = pair(model, graphs)
    for start, end in ((0, 20), (20, 33), (33, 34), (34, 120)):
        chunks = [chunk(2, start, end), chunk(11, start, end)]
        if end - start == 1:
            chunks.append(chunk(5, 3, 4))
        torch.testing.assert_close(ours.hidden(chunks), plain.hidden(chunks), rtol=1e-4, atol=1e-4)
    assert graphs.captured == 3, "(4, 64), (4, 16) and, from position 34 on, (4, 256)"


@torch.inference_mode()
def test_what_fits_no_rectangle_and_adapters_run_as_ever(model: Decoder, folder: Path, tmp_path: Path) -> None:
    graphs = Counted()
    ours, plain = pair(model, graphs)
    adapter = read_adapter("a", save_adapter(tmp_path / "a", folder), Host.of(model))
    for chunks in ([chunk(1, 0, 4, adapter), chunk(2, 0, 3)], [chunk(0, 0, 520)]):
        torch.testing.assert_close(ours.hidden(chunks), plain.hidden(chunks), rtol=1e-4, atol=1e-4)
    assert graphs.captured == 0


def test_after_warm_up_no_pass_captures_anything(model: Decoder) -> None:
    graphs = Counted()
    forward = CapturedForward(model, NUM_SLOTS, graphs)
    forward.warm_up()
    contexts = {tokens: sum(c >= tokens for c in (128, 512, CONTEXT_LEN)) for _, tokens in RECTANGLES}
    assert (32, 16) not in rectangles(NUM_SLOTS), "six sequences cannot fill it"
    assert graphs.captured == sum(contexts[tokens] for _, tokens in rectangles(NUM_SLOTS))
    runner = GraphRunner(forward, graphs)
    runner.warm_up()
    captured = graphs.captured
    ours, plain = sequences(), sequences()
    run(runner, ours)
    assert graphs.captured == captured
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids == b.token_ids, a.params


def parts() -> list[Decoder]:
    """A GPT-J of five layers, in three."""
    model = tiny_gptj(n_layer=5, n_positions=CONTEXT_LEN)
    return [decoder_of(model, layers=layers) for layers in (range(2), range(2, 4), range(4, 5))]


def through(forwards: list[CapturedForward] | list[TorchForward], chunks: list[Chunk]) -> torch.Tensor:
    x = None
    for forward in forwards:
        x = forward.hidden(chunks, x)
    assert x is not None
    return forwards[-1].logits(x)


@torch.inference_mode()
@pytest.mark.parametrize("graphs", [EagerGraphs, RecordedGraphs])
def test_captured_parts_give_the_plain_numbers_in_every_micro_batch(graphs: type[EagerGraphs]) -> None:
    ours = [CapturedForward(part, PART_SLOTS, graphs()) for part in parts()]
    plain = [TorchForward(part, PART_SLOTS) for part in parts()]
    steps = [
        [chunk(slot, 0, 3 + slot) for slot in range(PART_SLOTS)],  # prompts, in one rectangle
        [chunk(slot, 3 + slot, 4 + slot) for slot in range(7)],
        [chunk(slot, 3 + slot, 4 + slot) for slot in range(7, 16)],  # a window that begins before it
        [chunk(0, 4, 5), chunk(19, 22, 23), chunk(16, 19, 140)],  # single tokens far apart, and a long prompt
        [chunk(16, 140, 141)],  # another context
        [chunk(3, 7, 8), chunk(16, 141, 142), chunk(5, 9, 12), chunk(18, 21, 27)],
        [chunk(1, 5, 6)],
        [chunk(17, 20, CONTEXT_LEN)],  # fits no rectangle
        [chunk(2, 6, 7), chunk(17, CONTEXT_LEN - 1, CONTEXT_LEN)],
    ]
    for chunks in steps:
        torch.testing.assert_close(through(ours, chunks), through(plain, chunks), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_after_warm_up_a_part_captures_nothing_and_no_pass_runs_in_the_plain_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = Counted()
    part = CapturedForward(parts()[0], PART_SLOTS, graphs)
    part.warm_up()
    captured = graphs.captured
    monkeypatch.setattr(TorchForward, "hidden", lambda *_: pytest.fail("not captured"))
    for first in range(PART_SLOTS):
        for last in range(first, PART_SLOTS):
            part.hidden([chunk(slot, 100 + slot, 101 + slot) for slot in range(first, last + 1)])
    assert graphs.captured == captured


@torch.inference_mode()
def test_a_window_changes_its_own_rows_only() -> None:
    part = CapturedForward(parts()[0], PART_SLOTS, EagerGraphs())
    for pair in part.cache.pairs.values():
        pair.copy_(torch.randn(pair.shape, generator=torch.Generator().manual_seed(1)))
    before = {layer: pair.clone() for layer, pair in part.cache.pairs.items()}
    part.hidden([chunk(slot, 30, 31) for slot in (5, 6, 9)])
    for layer, pair in part.cache.pairs.items():
        changed = (
            (pair != before[layer])[..., : CONTEXT_LEN - 1, :].any(dim=-1).any(dim=2).any(dim=0).nonzero().tolist()
        )
        assert changed == [[5, 30], [6, 30], [9, 30]]


@pytest.mark.parametrize("num_slots", [1, 2, 3, 4, 5, 16, 33, 128, 1000])
def test_windows_cover_all_slots_in_few_sizes(num_slots: int) -> None:
    found = windows(num_slots)
    assert len(found) <= 40
    assert found[-1] == range(num_slots)
    assert all(0 <= w.start < w.stop <= num_slots for w in found)
    for first in range(0, num_slots, max(1, num_slots // 50)):
        window = next(w for w in found if first in w)  # of a sequence alone
        assert len(window) <= max(4, -(-num_slots // 8))


@torch.inference_mode()
def test_parts_of_different_formats_fit_together() -> None:
    """As where a GPU holds FP16 and the processor goes on in BF16."""
    model = tiny_gptj(n_layer=4)
    formats = [(torch.float16, range(2)), (torch.bfloat16, range(2, 4))]
    mixed = [decoder_of(model, dtype, layers) for dtype, layers in formats]
    exact = TorchForward(decoder_of(model), 4)
    chunks = [chunk(1, 0, 9)]
    expected = exact.logits(exact.hidden(chunks))
    for make in (lambda part: TorchForward(part, 4), lambda part: CapturedForward(part, 4, EagerGraphs())):
        ours = through([make(part) for part in mixed], chunks)
        assert (ours - expected).norm() < 0.03 * expected.norm()
