"""Adapters on GPT-J, whose queries, keys and values are three linears to PEFT and one here; and on parts of models."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_service.engine.fastest import cpu_forward
from model_service.engine.forward import Forward, TorchForward
from model_service.engine.graph_runner import GraphRunner
from model_service.engine.graphs import EagerGraphs
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.loading import CheckpointError, read_checkpoint
from model_service.models.lora import Adapter, Host, read_adapter
from tests.engine.test_adapter_places import asking
from tests.engine.test_graphs import NUM_SLOTS, run
from tests.support.adapters import merged_model, save_adapter
from tests.support.tiny_models import decoder_of, save_tiny_generator, save_tiny_gptj

SHAPES = {
    "all": {},
    "queries and values": {"target_modules": ["q_proj", "v_proj"]},
    "keys, in one layer": {"target_modules": ["k_proj"], "layers_to_transform": [1]},
    "different ranks": {"rank_pattern": {"q_proj": 2, "v_proj": 7}, "alpha_pattern": {"k_proj": 20}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gptj(tmp_path_factory.mktemp("gptj"), n_layer=3)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / str(i), base, i, strength=0.3, **changes)
        for i, (name, changes) in enumerate(SHAPES.items())
    }


def chunks_of(length: int, adapter: Adapter | None, slot: int = 0) -> tuple[list[int], list[Chunk]]:
    """A prompt and, in the last place, a token that follows it."""
    ids = [(7 * i + slot) % 256 for i in range(length)]
    sequence = Sequence(slot, ids, SamplingParams(), seed=0, adapter=adapter)
    sequence.slot = slot
    return ids, [Chunk(sequence, 0, length - 1), Chunk(sequence, length - 1, length)]


@torch.inference_mode()
def last_logits(forward: Forward, chunks: list[Chunk]) -> Tensor:
    for chunk in chunks:
        hidden = forward.hidden([chunk])
    return forward.logits(hidden[-1:])[0]


@pytest.mark.parametrize("name", SHAPES)
def test_an_adapter_gives_the_numbers_of_the_merged_model(base: Path, folders: dict[str, Path], name: str) -> None:
    forward = TorchForward(read_checkpoint(str(base)).model, 2)
    ids, chunks = chunks_of(20, forward.read_adapter(name, folders[name]))
    with torch.no_grad():
        expected = merged_model(base, folders[name])(torch.tensor([ids])).logits[0, -1]
        plain = merged_model(base, None)(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(last_logits(forward, chunks), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=0.1), "the adapter must matter"


def test_adapters_run_with_int8_weights_too(base: Path, folders: dict[str, Path]) -> None:
    model = read_checkpoint(str(base)).model
    exact, ours = TorchForward(model, 1), cpu_forward(model, "int8", 1)
    expected, found = (
        last_logits(forward, chunks_of(20, forward.read_adapter("all", folders["all"]))[1]) for forward in (exact, ours)
    )
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_captured_steps_with_adapters_equal_the_plain_runner(base: Path, folders: dict[str, Path]) -> None:
    model = read_checkpoint(str(base)).model
    adapters = [read_adapter(name, folder, Host.of(model)) for name, folder in folders.items()]
    ours, plain = asking(adapters), asking(adapters)
    run(GraphRunner(TorchForward(model, NUM_SLOTS), EagerGraphs(), smallest_context=16), ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


@torch.inference_mode()
def test_each_part_of_a_model_holds_its_layers_of_an_adapter(base: Path, folders: dict[str, Path]) -> None:
    whole = TorchForward(read_checkpoint(str(base)).model, 3)
    names = ["all", "keys, in one layer", ""]  # of which the first part has nothing to add for the second
    parts = [TorchForward(decoder_of(merged_model(base, None), layers=some), 3) for some in (range(1), range(1, 3))]

    def chunks(forward: TorchForward, which: int) -> list[Chunk]:
        """The prompts of all sequences, or a token of each."""
        read = [forward.read_adapter(name, folders[name]) if name else None for name in names]
        return [chunks_of(20, adapter, slot)[1][which] for slot, adapter in enumerate(read)]

    for which in (0, 1):
        x = None
        for part in parts:
            x = part.hidden(chunks(part, which), x)
        assert x is not None
        torch.testing.assert_close(x, whole.hidden(chunks(whole, which)))
    sizes = [part.read_adapter("all", folders["all"]).size_bytes for part in parts]
    assert sum(sizes) == whole.read_adapter("all", folders["all"]).size_bytes
    assert 2 * sizes[0] == sizes[1]


def test_an_adapter_of_another_architecture_is_refused_by_name(
    base: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    gpt2 = save_tiny_generator(tmp_path / "gpt2")
    other = save_adapter(tmp_path / "other", gpt2)
    sentence = r"changes .*c_attn.*; adapters may change attn.q_proj, attn.k_proj, attn.v_proj, attn.out_proj,"
    with pytest.raises(CheckpointError, match=sentence):
        read_adapter("x", other, Host.of(read_checkpoint(str(base)).model))
    with pytest.raises(CheckpointError, match=r"changes .*; adapters may change attn.c_attn"):
        read_adapter("x", folders["all"], Host.of(read_checkpoint(str(gpt2)).model))
