"""What is wrong with a checkpoint's files is said before a weight is read, with the file and the tensor."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_service.models import stored
from model_service.models.decoder import decoder
from model_service.models.loading import CheckpointError, open_checkpoint, read_checkpoint
from model_service.models.safetensors_file import read_entries
from model_service.models.stored import CONV1D, counted, short_name
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator, save_tiny_gptj

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SAVES = [save_tiny_generator, save_tiny_gptj]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_generator(tmp_path / "tiny")


def shard(folder: Path, num_shards: int = 2) -> Path:
    """Cut a folder's weights into several files with an index."""
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    places = {name: f"part-{i % num_shards}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in {*places.values()}:
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write the weights again, otherwise."""
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)


def header_of(path: Path) -> dict[str, dict[str, object]]:
    content = path.read_bytes()
    header: dict[str, dict[str, object]] = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return header


def with_header(path: Path, header: object) -> None:
    content = path.read_bytes()
    tensors = content[8 + struct.unpack("<Q", content[:8])[0] :]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("save", SAVES)
def test_every_tensor_is_the_files_in_its_format_and_turned_where_it_must_be(
    save: Callable[..., Path], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PIECE_BYTES", 1000)  # many pieces, and rows longer than one
    folder = save(tmp_path)
    tensors = open_checkpoint(str(folder)).tensors(weights)
    expected = {short_name(name): tensor for name, tensor in load_file(folder / FILE).items()}
    assert {*tensors} == {*expected}
    for name, tensor in tensors.items():
        wanted = expected[name].T if name.endswith(CONV1D) else expected[name]
        assert torch.equal(tensor, wanted.to(getattr(torch, weights))), name
        assert tensor.is_contiguous()


@pytest.mark.parametrize("save", SAVES)
def test_parts_read_their_own_tensors_only_and_say_how_far_they_are(save: Callable[..., Path], tmp_path: Path) -> None:
    opened = open_checkpoint(str(save(tmp_path, n_layer=4)))
    files = opened.files
    for layers in (range(4), range(0, 1), range(1, 3), range(3, 4)):
        said: list[int] = []
        opened.read(layers=layers, count=said.append)
        assert sum(said) == files.size_bytes(layers)
    figures: list[tuple[int, int]] = []
    count = counted(lambda done, total: figures.append((done, total)), 10)
    for read in (3, 3, 5):
        count(read)
    assert figures == [(3, 10), (6, 10), (10, 10)]
    middle, whole = files.size_bytes(range(1, 3)), files.size_bytes(range(4))
    assert middle < whole / 2


def test_a_tensor_in_use_is_not_read_again_and_one_that_is_not_is_let_go(folder: Path) -> None:
    read: list[int] = []
    tensors = open_checkpoint(str(folder)).tensors("float32", count=read.append)
    embedding = tensors["wte.weight"]
    assert tensors["wte.weight"] is embedding
    assert sum(read) == embedding.nbytes
    del embedding
    assert tensors["wte.weight"].shape == (257, 32)
    assert sum(read) == 2 * 257 * 32 * 4


@pytest.mark.parametrize("save", SAVES)
def test_int8_a_layer_at_a_time_is_what_a_whole_model_would_be_quantised_to(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    opened = open_checkpoint(str(save(tmp_path)))
    ours, theirs = opened.read("int8"), decoder(opened.shape, opened.tensors("float32")).quantised()
    x = torch.randn(3, opened.shape.n_embd, generator=torch.Generator().manual_seed(0))
    for ours_block, their_block in zip(ours.blocks, theirs.blocks, strict=True):
        assert torch.equal(ours_block.qkv(x), their_block.qkv(x))
        assert torch.equal(ours_block.up(x), their_block.up(x))
    assert torch.equal(ours.logits(x), theirs.logits(x))
    assert ours.size_bytes == theirs.size_bytes


def test_a_file_that_is_cut_short_is_said_with_its_bytes(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=rf"{FILE} is cut short: it has [\d,]+ bytes of at least [\d,]+\."):
        read_checkpoint(str(folder))


def test_a_file_that_shrinks_while_it_is_read_is_a_sentence(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match=rf"{FILE} ended in the middle of transformer\."):
        opened.read()
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"{FILE} could not be read"):
        opened.read()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        b"not a safetensors file at all, but a text",
        struct.pack("<Q", 20) + b"{" * 20,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"a": 1}',
    ],
)
def test_what_is_no_safetensors_file_is_said_to_be_none(folder: Path, content: bytes) -> None:
    (folder / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{FILE} is no safetensors file, or its beginning is broken"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": [1, 2]}, r"has \d+ bytes for the shape \[1, 2\] in F32"),
        ({"shape": [-1, -32]}, r"has the shape \[-1, -32\]"),
        ({"shape": "x"}, "has no shape or no place"),
        ({"data_offsets": [0]}, "has no shape or no place"),
        ({"dtype": "F7"}, "has the number format 'F7'"),
        ({"dtype": None}, "has the number format None"),
    ],
)
def test_a_tensor_that_makes_no_sense_is_named(folder: Path, changes: dict[str, object], sentence: str) -> None:
    header = header_of(folder / FILE)
    header["transformer.wpe.weight"] |= changes
    with_header(folder / FILE, header)
    with pytest.raises(CheckpointError, match=rf"{FILE} .*broken: transformer\.wpe\.weight {sentence}"):
        read_checkpoint(str(folder))


def test_a_shape_that_is_not_the_configs_is_said_as_the_file_has_it(folder: Path) -> None:
    changed(folder, lambda t: t.update({"transformer.h.1.mlp.c_fc.weight": torch.zeros(32, 100)}))
    found = rf"{FILE}: transformer\.h\.1\.mlp\.c_fc\.weight has the shape \[32, 100\]"
    with pytest.raises(CheckpointError, match=rf"{found}, but by config\.json it is \[32, 128\]"):
        read_checkpoint(str(folder))


def test_numbers_that_are_no_floats_are_named(folder: Path) -> None:
    changed(folder, lambda t: t.update({"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int32)}))
    with pytest.raises(CheckpointError, match=rf"{FILE}: transformer\.ln_f\.bias is stored as I32; F16, BF16, F32"):
        read_checkpoint(str(folder))


def test_a_missing_tensor_is_named_where_it_should_be(folder: Path, tmp_path: Path) -> None:
    changed(folder, lambda t: t.pop("transformer.h.1.ln_2.weight"))
    with pytest.raises(CheckpointError, match=rf"{FILE} lacks h\.1\.ln_2\.weight"):
        read_checkpoint(str(folder))
    gptj = save_tiny_gptj(tmp_path / "gptj")
    changed(gptj, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=rf"{FILE} lacks lm_head\.weight"):
        read_checkpoint(str(gptj))


def test_a_part_of_a_model_does_not_need_what_is_missing_elsewhere(folder: Path) -> None:
    changed(folder, lambda t: t.pop("transformer.h.1.ln_2.weight"))
    assert open_checkpoint(str(folder)).read(layers=range(0, 1)).layers == range(0, 1)


def test_a_classifier_needs_no_head_of_a_language_model(tmp_path: Path) -> None:
    opened = open_checkpoint(str(save_tiny_classifier(tmp_path)))
    assert "lm_head.weight" not in opened.files.entries
    assert opened.read().is_last


def test_half_a_download_says_what_is_missing(folder: Path) -> None:
    shard(folder)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"has no part-1\.safetensors, which {INDEX} names: half a download"):
        read_checkpoint(str(folder))
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError, match=rf"has no {FILE} and no {INDEX}: .* or half a download"):
        read_checkpoint(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json: it is no checkpoint, or half a download"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("index", [{}, {"weight_map": 1}, {"weight_map": {"wte.weight": 3}}])
def test_an_index_without_a_map_is_refused(folder: Path, index: object) -> None:
    shard(folder)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"{INDEX} has no weight_map"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd"])
def test_an_index_cannot_point_out_of_its_folder(folder: Path, name: str) -> None:
    shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(CheckpointError, match=r"which is no file of its folder"):
        read_checkpoint(str(folder))


def test_what_safetensors_writes_is_read_at_the_same_places(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    for entry in read_entries(folder / FILE):
        tensor = load_file(folder / FILE)[entry.name]
        assert content[entry.start : entry.end] == tensor.numpy().tobytes()
