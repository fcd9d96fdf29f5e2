"""Adapters in captured steps: the tokens of the plain runner, whatever else is in the batch."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from model_service.engine.adapter_places import NO_PLACE, AdapterPlaces, Added
from model_service.engine.forward import TorchForward
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import EagerGraphs
from model_service.engine.runner import ModelRunner
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.gpt2 import GPT2
from model_service.models.loading import read_checkpoint
from model_service.models.lora import Adapter, Host, LowRank, read_adapter
from tests.engine.test_graphs import NUM_SLOTS, graph_runner, run
from tests.support.adapters import save_adapter
from tests.support.tiny_models import save_tiny_generator

HOST = Host(n_layer=2, n_embd=8, n_inner=32, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base: Path) -> GPT2:
    return read_checkpoint(str(base)).model


@pytest.fixture(scope="module")
def adapters(base: Path, model: GPT2, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Of several ranks and linears; the last has more than a place holds."""
    kinds = [{"r": 2, "target_modules": ["c_attn"]}, {}, {"r": 16}, {"r": 3, "target_modules": ["c_fc"]}, {"r": 40}]
    root = tmp_path_factory.mktemp("adapters")
    return [
        read_adapter(str(i), save_adapter(root / str(i), base, i, strength=0.3, **kind), Host.of(model))
        for i, kind in enumerate(kinds)
    ]


def asking(adapters: list[Adapter], count: int = 18) -> list[Sequence]:
    """Every third sequence has no adapter."""
    return [
        Sequence(
            i,
            list(range(1, 3 + i % 7)),
            SamplingParams(max_tokens=8 + i % 5, temperature=i % 2),
            seed=i,
            adapter=None if i % 3 == 2 else adapters[i % len(adapters)],
        )
        for i in range(count)
    ]


def test_captured_steps_with_adapters_equal_the_plain_runner(model: GPT2, adapters: list[Adapter]) -> None:
    ours, plain = asking(adapters), asking(adapters)
    run(graph_runner(model), ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids == b.token_ids, a.adapter and a.adapter.name
    with_none = asking([None] * 5)  # type: ignore[list-item]
    run(graph_runner(model), with_none)
    changed = [a.token_ids != b.token_ids for a, b in zip(ours, with_none, strict=True)]
    assert sum(changed) >= 6, "the adapters must matter"


def test_more_adapters_than_places_run_too(model: GPT2, adapters: list[Adapter]) -> None:
    runner = GraphRunner(TorchForward(model, NUM_SLOTS), EagerGraphs(), smallest_context=16)
    runner._step.adapters = AdapterPlaces(Host.of(model), places=2)
    ours, plain = asking(adapters), asking(adapters)
    run(runner, ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


def random_adapter(rank: int, *linears: str, seed: int = 0, strength: float = 1.0) -> Adapter:
    numbers = torch.Generator().manual_seed(seed)

    def matrix(width: int) -> torch.Tensor:
        return torch.randn(rank, width, generator=numbers) * strength

    layers = tuple({name: LowRank(*map(matrix, HOST.sizes(name))) for name in linears} for _ in range(HOST.n_layer))
    return Adapter(f"{rank}-{seed}", rank, layers)


def expected(adapter: Adapter, linear: str, x: torch.Tensor) -> torch.Tensor:
    low = adapter.layers[1][linear]
    return x @ low.a.T @ low.b


def test_each_row_gets_its_own_adapter_and_nothing_of_others() -> None:
    places = AdapterPlaces(HOST, places=3, rank=4)
    wide, thin = random_adapter(4, "qkv", "up", seed=1), random_adapter(1, "up", seed=2)
    broken = random_adapter(2, "up", seed=3, strength=1e30)  # overflows, for its own rows
    held = places.place([wide, thin, broken])
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(4))
    rows = torch.tensor([held[thin], NO_PLACE, held[wide], held[broken]])
    added = Added(places.pairs(1), places.strangers(rows))
    y = added.to("up", x, torch.ones(4, 32))
    assert not y[3].isfinite().all()
    torch.testing.assert_close(y[0], 1 + expected(thin, "up", x[0]))
    torch.testing.assert_close(y[2], 1 + expected(wide, "up", x[2]))
    assert torch.equal(y[1], torch.ones(32)), "to the bit: no adapter adds nothing"
    assert torch.equal(added.to("proj", x, x), x), "nobody changes it"
    qkv = added.to("qkv", x, torch.zeros(4, 24))
    assert torch.equal(qkv[0], torch.zeros(24)), "an adapter that leaves a linear alone adds nothing there"


def test_a_place_is_taken_from_whom_nobody_wants_now_longest_unused_first() -> None:
    places = AdapterPlaces(HOST, places=2, rank=4)
    a, b, c = (random_adapter(2, "up", seed=i) for i in range(3))
    first = places.place([a, b])
    assert places.place([a])[a] == first[a]
    assert places.place([c])[c] == first[b]
    again = places.place([a, c, b])
    assert (again[a], again[c]) == (first[a], first[b])
    assert b not in again, "two places, both wanted"


def test_a_place_is_clean_for_its_next_adapter() -> None:
    places = AdapterPlaces(HOST, places=1, rank=4)
    places.place([random_adapter(4, "up", "proj", seed=1)])
    small = random_adapter(1, "up", seed=2)
    [place] = places.place([small]).values()
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(4))
    added = Added(places.pairs(1), places.strangers(torch.tensor([place])))
    torch.testing.assert_close(added.to("up", x, torch.zeros(1, 32))[0], expected(small, "up", x[0]))
    assert torch.equal(added.to("proj", x, x), x)


def test_an_adapter_of_too_high_a_rank_gets_no_place_and_takes_no_memory() -> None:
    places = AdapterPlaces(HOST, rank=4)
    assert places.place([random_adapter(5, "up")]) == {}
    assert places.linears == ()


def test_a_dropped_adapter_is_not_kept() -> None:
    places = AdapterPlaces(HOST)
    adapter = random_adapter(2, "up")
    places.place([adapter])
    gone = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert gone() is None
    assert len(places.place([random_adapter(2, "up", seed=i) for i in range(20)])) == 8
