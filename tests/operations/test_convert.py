"""`punchline convert`: pickled weights become safetensors, and a program among them never runs."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model_service.convert import convert
from model_service.engine.engine import Engine
from model_service.engine.loading import load
from model_service.engine.sequence import SamplingParams
from model_service.models import pickles
from model_service.models.folder import CheckpointError, read_config
from model_service.models.loading import read_checkpoint
from model_service.models.shape import shape_of
from tests.engine.test_engine import ask
from tests.operations.builders import clean_environment, punchline, until_exists
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator

ROOT = Path(__file__).parents[2]
STALLED = "tests.support.stalled_conversion"


class Program:
    """What is in a malicious checkpoint: whoever unpickles it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def as_pickles(folder: Path, num_shards: int = 1, *, prefix: str = "transformer.", zipped: bool = True) -> Path:
    """Write a folder's weights as old checkpoints have them: pickled, with causal masks, and a tied head once more."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors = {name.replace("transformer.", prefix): tensor for name, tensor in tensors.items()}
    tensors[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    tensors[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors[f"{prefix}wte.weight"].clone()
    if num_shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        return folder
    names = [f"pytorch_model-{i}-of-{num_shards}.bin" for i in range(num_shards)]
    places = {name: names[i % num_shards] for i, name in enumerate(sorted(tensors))}
    for file in names:
        torch.save({n: tensors[n] for n in tensors if places[n] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def converted(folder: Path, target: Path) -> Path:
    """Convert in this process: what the child does, without the child."""
    target.mkdir()
    shutil.copyfile(folder / "config.json", target / "config.json")
    shutil.copyfile(folder / "tokenizer.json", target / "tokenizer.json")
    files = [pickles.weights_of(path) for path in pickles.shards(folder)]
    pickles.write_all(pickles.plan(files, shape_of(read_config(folder))), target)
    return target


def assert_same_model(folder: Path, expected: Path) -> None:
    ours, theirs = (read_checkpoint(str(f)).opened.tensors("float32") for f in (folder, expected))
    assert {*ours} == {*theirs}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return save_tiny_generator(tmp_path / "original")


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    return as_pickles(shutil.copytree(original, tmp_path / "source"))


async def test_a_converted_checkpoint_is_the_same_model_and_answers(source: Path, original: Path) -> None:
    ended = punchline("convert", "source", "new", cwd=source.parent)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == 'new holds the model as safetensors. Use it: source = "new"\n'
    target = source.parent / "new"
    assert_same_model(target, original)
    assert names_in(target) == names_in(original)
    assert names_in(source.parent) == {"original", "source", "new"}
    engine = load(str(target), "generate", model_id="new", weights="float32")
    assert isinstance(engine, Engine)
    reference = load(str(original), "generate", model_id="old", weights="float32")
    assert isinstance(reference, Engine)
    params = SamplingParams(max_tokens=12, temperature=0)
    assert (await ask(engine, "Once", params)).text == (await ask(reference, "Once", params)).text
    await engine.close()
    await reference.close()


@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["prefixed", "bare"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_old_names_and_shards_give_the_same_model(tmp_path: Path, original: Path, num_shards: int, prefix: str) -> None:
    source = as_pickles(shutil.copytree(original, tmp_path / "source"), num_shards, prefix=prefix)
    target = converted(source, tmp_path / "new")
    assert_same_model(target, original)
    names = {name for path in target.glob("*.safetensors") for name in load_file(path)}
    assert names == {*load_file(original / "model.safetensors")}


def test_the_format_of_before_2020_is_read_too(tmp_path: Path, original: Path) -> None:
    source = as_pickles(shutil.copytree(original, tmp_path / "source"), zipped=False)
    assert_same_model(converted(source, tmp_path / "new"), original)


def test_a_classifiers_own_head_is_kept(tmp_path: Path) -> None:
    original = save_tiny_classifier(tmp_path / "original")
    source = shutil.copytree(original, tmp_path / "source")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    assert_same_model(converted(source, tmp_path / "new"), original)


def test_a_head_that_is_not_the_embedding_is_kept(tmp_path: Path, source: Path) -> None:
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    torch.save(tensors, source / "pytorch_model.bin")
    written = load_file(converted(source, tmp_path / "new") / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], tensors["lm_head.weight"])


def test_a_program_in_a_checkpoint_is_refused_and_never_runs(source: Path) -> None:
    trace = source.parent / "trace"
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "extra": Program(trace)}, source / "pytorch_model.bin")
    ended = punchline("convert", "source", "new", cwd=source.parent)
    assert ended.returncode == 1
    assert (
        f"{source / 'pytorch_model.bin'} was refused: besides weights it holds a program (posix.system)" in ended.stderr
    )
    assert "Nothing of it was run." in ended.stderr
    assert not trace.exists()
    assert names_in(source.parent) == {"original", "source"}
    torch.load(source / "pytorch_model.bin", weights_only=False)
    assert trace.exists(), "so it was a real one"


def test_a_bare_pickle_with_a_program_is_refused(source: Path) -> None:
    trace = source.parent / "trace"
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Program(trace)))
    with pytest.raises(CheckpointError, match="was refused"):
        pickles.weights_of(source / "pytorch_model.bin")
    assert not trace.exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def boundless(path: Path) -> None:
    torch.save({"h.0.ln_1.weight": torch.ones(1).expand(10**12)}, path)


def no_mapping(path: Path) -> None:
    torch.save([torch.ones(1)], path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (empty, "is broken or cut short"),
        (truncated, "is broken or cut short"),
        (boundless, r"h\.0\.ln_1\.weight claims the shape \[1000000000000\], for which it has too few numbers"),
        (no_mapping, "holds something other than tensors by name"),
    ],
)
def test_a_broken_file_is_a_sentence(source: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=sentence):
        pickles.weights_of(source / "pytorch_model.bin")


def test_whole_numbers_are_no_weights(source: Path) -> None:
    weights: dict[str, Tensor] = {"h.0.ln_1.weight": torch.ones(32, dtype=torch.int64)}
    with pytest.raises(CheckpointError, match=r"h\.0\.ln_1\.weight holds torch\.int64; only floats are weights"):
        pickles.plan([weights], shape_of(read_config(source)))


def test_a_missing_shard_is_half_a_download(tmp_path: Path, original: Path) -> None:
    source = as_pickles(shutil.copytree(original, tmp_path / "source"), 3)
    (source / "pytorch_model-1-of-3.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no pytorch_model-1-of-3\.bin, which .* names: half a download"):
        pickles.shards(source)


def quietly(done: int, total: int) -> None:
    """Nobody watches."""


def test_what_cannot_be_converted_is_refused_with_the_right_way(source: Path, original: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is there already\. Name a folder that is not, or delete it"):
        convert(str(source), original, quietly)
    with pytest.raises(CheckpointError, match="holds safetensors already: load it as it is"):
        convert(str(original), tmp_path / "new", quietly)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no pytorch_model\.bin: there is nothing to convert"):
        convert(str(tmp_path / "empty"), tmp_path / "new", quietly)
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        convert("./nowhere", tmp_path / "new", quietly)
    (source / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="would not run here: its model_type is 'llama'"):
        convert(str(source), tmp_path / "new", quietly)
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        convert(str(source), tmp_path / "new", quietly)
    assert not (tmp_path / "new").exists()


def test_weights_that_are_not_those_of_the_config_leave_nothing_behind(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(CheckpointError, match=r"lacks h\.2\."):
        convert(str(source), tmp_path / "new", quietly)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / ".new.converting").exists()


def begun(source: Path, target: Path) -> "subprocess.Popen[str]":
    """Start a conversion that stalls half way."""
    code = (
        "import signal, sys; from pathlib import Path; from model_service import convert as c; "
        "signal.signal(signal.SIGTERM, c._end); "
        f"c.convert(sys.argv[1], Path(sys.argv[2]), lambda done, total: None, child={STALLED!r})"
    )
    env = clean_environment(PYTHONPATH=str(ROOT))
    process = subprocess.Popen([sys.executable, "-c", code, source, target], env=env, stderr=subprocess.PIPE, text=True)
    until_exists(target.with_name(f".{target.name}.converting") / "model.safetensors")
    return process


def until_gone(path: Path, limit_s: float = 30) -> None:
    limit = time.monotonic() + limit_s
    while path.exists():
        assert time.monotonic() < limit, f"{path} is still there"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_conversion_that_is_killed_leaves_nothing_behind(
    source: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with begun(source, tmp_path / "new") as process:
        if number == signal.SIGKILL:
            with pytest.raises(CheckpointError, match="Another `punchline convert` is writing"):
                convert(str(source), tmp_path / "new", quietly)
        process.send_signal(number)
        assert process.wait(30) != 0
        until_gone(tmp_path / ".new.converting")
        assert not (tmp_path / "new").exists()


def test_a_child_that_dies_is_a_sentence(source: Path, tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "suicidal.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        with pytest.raises(CheckpointError, match="was killed, perhaps because the machine has too little memory"):
            convert(str(source), tmp_path / "new", quietly, child="suicidal")
    assert not (tmp_path / ".new.converting").exists()


def test_the_child_may_take_so_much_memory_and_time_and_no_more() -> None:
    code = """
import resource
from model_service.models.pickles import ROOM_BYTES, ROOM_S, limit
limit(10**9)
assert resource.getrlimit(resource.RLIMIT_CPU)[0] == ROOM_S + 100
try:
    bytearray(2 * 10**9 + ROOM_BYTES)
except MemoryError:
    print("refused")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.stdout == "refused\n", ended.stderr
