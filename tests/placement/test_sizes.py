"""Bytes without weights: as published for the known variants, and exactly those of real models in every format."""

from pathlib import Path

import pytest

from model_service.engine.native_forward import NativeForward
from model_service.models.loading import open_checkpoint
from model_service.native.library import why_not
from model_service.placement.sizes import PAGE, Sizes
from model_service.placement.variants import VARIANTS, known_shape
from tests.support.tiny_models import save_tiny_generator, save_tiny_gptj

PUBLISHED = {  # millions of parameters, as their model cards and papers count them
    "distilgpt2": 81.9,
    "gpt2": 124.4,
    "gpt2-medium": 354.8,
    "gpt2-large": 774.0,
    "gpt2-xl": 1557.6,
    "gpt-j-6b": 6050.9,
}
FORMATS = ("float32", "float16", "bfloat16", "int8")
KINDS = ("tied", "own head", "odd sizes", "gptj")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {
        "tied": save_tiny_generator(base / "tied", n_layer=3),
        "own head": save_tiny_generator(base / "own", n_layer=3, tie_word_embeddings=False),
        "odd sizes": save_tiny_generator(base / "odd", n_layer=3, n_embd=36, n_inner=50, n_positions=75),
        "gptj": save_tiny_gptj(base / "gptj", n_layer=3),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_known_variants_have_the_published_number_of_parameters(name: str) -> None:
    assert round(Sizes(VARIANTS[name]).num_parameters / 1e6, 1) == PUBLISHED[name]
    assert set(VARIANTS) == set(PUBLISHED)


def test_a_published_variant_is_known_by_its_repository_and_by_nothing_else() -> None:
    assert known_shape("openai-community/gpt2-xl") == VARIANTS["gpt2-xl"]
    assert known_shape("EleutherAI/gpt-j-6B") == VARIANTS["gpt-j-6b"]
    assert known_shape("somebody/gpt2-xl") is None
    assert known_shape("gpt2") is None, "a folder may be named so"


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_exactly_what_a_loaded_model_takes(folders: dict[str, Path], kind: str, weights: str) -> None:
    checkpoint = open_checkpoint(str(folders[kind]))
    sizes = Sizes(checkpoint.shape)
    assert sizes.weights(sizes.all_layers, weights) == checkpoint.read(weights).size_bytes


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_counted_where_they_lie_a_tied_head_once_more(
    folders: dict[str, Path], kind: str, weights: str
) -> None:
    checkpoint = open_checkpoint(str(folders[kind]))
    sizes = Sizes(checkpoint.shape)
    for layers in (range(0, 1), range(1, 2), range(2, 3)):
        assert sizes.weights(layers, weights) == checkpoint.read(weights, layers=layers).size_bytes, layers
    shape, whole = checkpoint.shape, sizes.weights(sizes.all_layers, "float32")
    cut = sum(sizes.weights(layers, "float32") for layers in (range(0, 2), range(2, 3)))
    assert cut - whole == (4 * shape.vocab_size * shape.n_embd if shape.tied else 0)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("kind", ["tied", "own head", "odd sizes"])
def test_int8_in_our_kernels_is_counted_as_they_hold_it(folders: dict[str, Path], kind: str) -> None:
    checkpoint = open_checkpoint(str(folders[kind]))
    sizes = Sizes(checkpoint.shape, kernels=True)
    norms = (2 * checkpoint.shape.n_layer + 1) * 2 * PAGE  # which they do not report
    native = NativeForward(checkpoint.stored_gpt2(), num_slots=1)
    assert sizes.weights(sizes.all_layers, "int8") == native.size_bytes + norms


def test_a_sequence_takes_two_rows_a_layer_and_position() -> None:
    sizes = Sizes(VARIANTS["gpt2-xl"])
    cache = 2 * 48 * 1024 * 1600 * 2
    draws = 48 * 50257
    assert sizes.slot(sizes.all_layers, "float16", "gpu") == cache + draws
    first, last = range(0, 24), range(24, 48)
    assert sizes.slot(first, "float16", "gpu") == cache // 2, "tokens are drawn where the head is"
    assert sizes.slot(last, "float16", "gpu") == cache // 2 + draws
    assert sizes.slot(sizes.all_layers, "float32", "cpu") > 2 * cache


def test_adapters_and_their_places_take_what_the_engine_says_of_xl() -> None:
    with_one, without = Sizes(VARIANTS["gpt2-xl"], num_adapters=1), Sizes(VARIANTS["gpt2-xl"])
    one = 48 * 16 * 16 * 1600 * 2  # layers, rank, and the widths of four linears, in and out: 16 E
    more = with_one.total(with_one.all_layers, "float16", "gpu", 4) - without.total(
        without.all_layers, "float16", "gpu", 4
    )
    assert more == 9 * one, "itself, and eight places"
    assert round(8 * one / 1e6) == 315  # as engine/adapter_places.py has it
