"""What a GPU captures is fixed once it is recorded: replayed without its Python, it makes the same tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model_service.engine.captured_forward import CapturedForward
from model_service.engine.decode_step import DRAW_MODES, DecodeStep
from model_service.engine.forward import TorchForward
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.runner import ModelRunner
from model_service.models.decoder import Decoder
from model_service.models.loading import read_checkpoint
from model_service.models.lora import Adapter, Host, read_adapter
from tests.engine.test_adapter_places import asking
from tests.engine.test_graphs import NUM_SLOTS, run, sequences
from tests.support.adapters import save_adapter
from tests.support.recorded_graphs import HostWaits, RecordedGraphs
from tests.support.tiny_models import save_tiny_generator, save_tiny_gptj


@pytest.fixture(scope="module", params=[save_tiny_generator, save_tiny_gptj], ids=["gpt2", "gptj"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("tiny"))
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return read_checkpoint(str(folder)).model


@pytest.fixture(scope="module")
def adapters(folder: Path, model: Decoder, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    root = tmp_path_factory.mktemp("adapters")
    ranks = (2, 16, 4)
    return [
        read_adapter(str(r), save_adapter(root / str(r), folder, r, strength=0.3, r=r), Host.of(model)) for r in ranks
    ]


def runner(model: Decoder) -> GraphRunner:
    graphs = RecordedGraphs()
    return GraphRunner(CapturedForward(model, NUM_SLOTS, graphs), graphs, smallest_context=16)


def test_replayed_steps_make_the_tokens_of_the_plain_runner(model: Decoder) -> None:
    ours, plain = sequences(), sequences()
    run(runner(model), ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids == b.token_ids, a.params


def test_replayed_steps_serve_adapters_that_come_later(model: Decoder, adapters: list[Adapter]) -> None:
    replayed = runner(model)
    first, ours, plain = asking(adapters[:1], 4), asking(adapters), asking(adapters)
    run(replayed, first)
    run(replayed, ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


@pytest.mark.parametrize("mode", DRAW_MODES)
@torch.inference_mode()
def test_no_draw_lets_the_host_wait(model: Decoder, mode: str) -> None:
    step = DecodeStep(model, TorchForward(model, 4).cache, 4)
    RecordedGraphs().capture(step.draw_work(3, mode))()


@pytest.mark.parametrize(
    "looks", [lambda x: x.max().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: bool(x.any())]
)
def test_work_that_looks_at_its_numbers_cannot_be_recorded(looks: Callable[[torch.Tensor], object]) -> None:
    x = torch.ones(3)

    def work() -> None:
        looks(x)

    with pytest.raises(HostWaits):
        RecordedGraphs().capture(work)


def test_a_replay_reads_what_was_written_since_and_none_of_its_own_leftovers() -> None:
    x, y = torch.ones(2), torch.zeros(2)
    kept: list[torch.Tensor] = []

    def work() -> None:
        kept[:] = [x * 2]
        y.copy_(kept[0] + 1)

    replay = RecordedGraphs().capture(work)
    x.fill_(5)
    replay()
    assert y.tolist() == [11, 11]
    assert kept[0].isnan().all()
