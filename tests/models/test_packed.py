"""Packed float32 linears: the same products as torch's, rows that do not depend on their neighbours, no byte more."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model_service.engine.forward import TorchForward
from model_service.models.linear import Affine, Packed, can_pack, to_packed
from model_service.models.loading import open_checkpoint
from model_service.native.library import why_not
from tests.support.tiny_models import save_tiny_generator

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

CPU = torch.device("cpu")
SIZES = [
    (48, 768),
    (64, 48),
    (100, 37),
    (1, 1),
    (47, 1543),
    (513, 800),
]  # whole panels, narrow ones, parts of registers


def layer(out: int, width: int, with_bias: bool = True) -> tuple[Affine, Packed]:
    torch.manual_seed(out)
    plain = Affine(torch.randn(out, width), torch.randn(out) if with_bias else None)
    packed = to_packed(Affine(plain.weight.clone(), plain.bias))
    assert isinstance(packed, Packed)
    return plain, packed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 64, 131])
def test_products_are_torchs(size: tuple[int, int], rows: int) -> None:
    for with_bias in (True, False):
        plain, packed = layer(*size, with_bias)
        x = torch.randn(rows, size[1])
        exact = F.linear(x.double(), plain.weight.double(), None if plain.bias is None else plain.bias.double())
        torch.testing.assert_close(packed(x).double(), exact, rtol=1e-5, atol=1e-5 * size[1] ** 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_a_row_is_the_same_bits_in_any_batch(size: tuple[int, int]) -> None:
    _, packed = layer(*size)
    x = torch.randn(70, size[1])
    together = packed(x)
    for rows in (slice(0, 1), slice(3, 12), slice(5, 70)):
        assert torch.equal(packed(x[rows]), together[rows])
    assert torch.equal(packed(x[::2]), together[::2])  # rows that are not beside one another in memory


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    _, packed = layer(513, 800)
    x, before = torch.randn(20, 800), torch.get_num_threads()
    alone = packed(x)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(packed(x), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", SIZES)
def test_rows_can_be_looked_up(size: tuple[int, int]) -> None:
    plain, packed = layer(*size)
    rows = torch.arange(size[0]).flip(0)
    assert torch.equal(packed[rows], plain.weight[rows])


def test_no_rows_are_no_work() -> None:
    _, packed = layer(100, 37)
    assert packed(torch.empty(0, 37)).shape == (0, 100)


def test_numbers_that_broke_are_seen() -> None:
    _, packed = layer(100, 37)
    x = torch.randn(3, 37)
    x[1, 5] = torch.nan
    assert packed(x).isfinite().all(dim=1).tolist() == [True, False, True]


def test_only_float32_on_a_processor_is_packed() -> None:
    assert can_pack(torch.float32, CPU)
    assert not can_pack(torch.bfloat16, CPU)
    assert not can_pack(torch.float32, torch.device("cuda"))


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_model_takes_no_byte_more(tmp_path: Path, tied: bool) -> None:
    opened = open_checkpoint(str(save_tiny_generator(tmp_path, tie_word_embeddings=tied)))
    plain, packed = opened.read(), opened.read(to_run=True)
    assert isinstance(packed.blocks[0].qkv, Packed)
    assert packed.size_bytes == plain.size_bytes
    ids = torch.arange(20)
    with torch.inference_mode():
        assert torch.equal(packed.embed(ids, ids), plain.embed(ids, ids))
        hidden = torch.randn(3, opened.shape.n_embd)
        torch.testing.assert_close(packed.logits(hidden), plain.logits(hidden))


def test_what_runs_is_packed(tmp_path: Path) -> None:
    from model_service.engine.loading import forward_for

    forward = forward_for(open_checkpoint(str(save_tiny_generator(tmp_path))), "float32", "cpu", 2)
    assert isinstance(forward, TorchForward)
    assert all(
        isinstance(getattr(b, name), Packed) for b in forward.model.blocks for name in ("qkv", "proj", "up", "down")
    )
