"""What decides on a GPU before the first step: slots that fit, layers that are faster, graphs ahead of time."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._functorch.aot_autograd import aot_module_simplified

from model_service.engine.forward import TorchForward
from model_service.engine.gpu import choose_parts, compiled_parts, slots_within, use_exact_sums
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import EagerGraphs
from model_service.engine.runner import ModelRunner
from model_service.engine.workspace import workspace_bytes
from model_service.models.decoder import Decoder
from model_service.models.layers import Added, Block, LayerParts
from model_service.models.loading import CheckpointError, read_checkpoint
from model_service.models.shape import GPT2Shape
from tests.engine.test_graphs import NUM_SLOTS, Counted, graph_runner, run, sequences
from tests.support.tiny_models import save_tiny_generator, save_tiny_gptj

XL = GPT2Shape(vocab_size=50257, n_positions=1024, n_embd=1600, n_layer=48, n_head=25)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return read_checkpoint(str(save_tiny_generator(tmp_path_factory.mktemp("tiny"), n_layer=5))).model


def test_xl_gets_all_its_slots_on_a_large_card(caplog: pytest.LogCaptureFixture) -> None:
    assert slots_within(120 * 10**9, XL, 2, wanted=256, total_bytes=141 * 10**9) == 256
    assert not caplog.records


def test_slots_that_do_not_fit_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        slots = slots_within(20 * 10**9, XL, 2, wanted=256, total_bytes=24 * 10**9)
    assert slots == (20 * 10**9 - workspace_bytes(XL, 2, slots)) // (2 * 48 * 1024 * 1600 * 2 + 48 * 50257)
    assert caplog.messages == [f"{slots} sequences at a time instead of 256: 317 MB each, 20.0 of 24.0 GB are free"]


def test_a_card_without_room_for_one_sequence_is_refused_with_the_numbers() -> None:
    with pytest.raises(CheckpointError, match=re.escape("no memory left for a sequence of 1024 tokens: 317 MB each")):
        slots_within(6 * 10**8, XL, 2, wanted=16, total_bytes=8 * 10**9)


def test_after_warm_up_no_step_captures_anything(model: Decoder) -> None:
    graphs = Counted()
    runner = graph_runner(model, graphs)
    runner.warm_up()
    # batches 1, 2, 4, 6; contexts 16, 24, 32, 48, 64, 96, 128; and three kinds of draws for each batch
    assert graphs.captured == 4 * 7 + 4 * 3
    ours, plain = sequences(), sequences()
    run(runner, ours)
    assert graphs.captured == 4 * 7 + 4 * 3
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


def slower(do: LayerParts, seconds: float) -> LayerParts:

    def before(x: Tensor, block: Block, turns: Tensor | None, added: Added | None) -> Tensor:
        time.sleep(seconds)
        return do.before(x, block, turns, added)

    return LayerParts(before, do.after)


def parts_that_fail(x: Tensor, block: Block, turns: Tensor | None, added: Added | None) -> Tensor:
    raise RuntimeError("Failed to find C compiler.\nand more")


def test_single_sequences_run_on_the_faster_layers(model: Decoder, caplog: pytest.LogCaptureFixture) -> None:
    plain = model.parts
    slow = slower(plain, 0.015)
    for given, fast in (((plain, slow), plain), ((slow, plain), plain)):
        runner = graph_runner(model)
        with caplog.at_level(logging.INFO):
            choose_parts(runner, *given)
        assert runner._parts[1] is fast
    assert "a step of one sequence: plain" in caplog.text


def test_layers_that_do_not_compile_are_done_without_and_said(model: Decoder, caplog: pytest.LogCaptureFixture) -> None:
    runner = graph_runner(model)
    plain = model.parts
    choose_parts(runner, plain, LayerParts(parts_that_fail, plain.after))
    assert caplog.messages == [
        "layers cannot be compiled here, single sequences stay slower: Failed to find C compiler."
    ]
    ours, plainly = sequences(8), sequences(8)
    run(runner, ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plainly)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plainly]


@pytest.mark.parametrize("make", [save_tiny_generator, save_tiny_gptj])
def test_one_compiled_pair_serves_all_layers_and_gives_the_same_tokens(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    model = read_checkpoint(str(make(tmp_path, n_layer=5))).model
    made = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        """As every compiler begins, without one: the graph in operations that change nothing in place."""
        nonlocal made
        made += 1
        return aot_module_simplified(graph, inputs, fw_compiler=lambda graph, _: make_boxed_func(graph.forward))

    ours, plain = sequences(2), sequences(2)
    runner = GraphRunner(TorchForward(model, 1), EagerGraphs())
    runner.use_parts(1, compiled_parts(model.parts, backend=backend))
    run(runner, ours, num_slots=1)
    run(ModelRunner(TorchForward(model, 1)), plain, num_slots=1)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]
    assert made == 2, "each part is traced once, whole, and not once a layer"


def test_sums_are_exact_in_this_process() -> None:
    use_exact_sums()
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction is False
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction is False
