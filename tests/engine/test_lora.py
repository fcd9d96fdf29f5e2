"""Adapters in the batch: each sequence answers as PEFT's merged model would, whatever runs beside it."""

import asyncio
import gc
import json
import shutil
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_service.engine.adapters import AdapterStack
from model_service.engine.engine import Engine
from model_service.engine.loading import load
from model_service.engine.sequence import Piece, SamplingParams
from model_service.engine.stream import Stream
from model_service.errors import ModelNotFound
from model_service.models.loading import CheckpointError, read_checkpoint
from model_service.models.lora import Adapter, Host, read_adapter
from tests.support.adapters import merged_model, save_adapter
from tests.support.tiny_models import byte_tokenizer, save_tiny_generator

CONTEXT_LEN = 512  # two prompt chunks and an answer
SPECIAL: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention": {"r": 2, "target_modules": ["c_attn"], "lora_alpha": 4, "strength": 0.5},
    "patterns": {"rank_pattern": {"c_fc": 8}, "alpha_pattern": {"h.1.mlp.c_proj": 40, "c_attn": 3}, "use_rslora": True},
}
NEVER_END = ((256, -100.0),)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("base"), n_positions=CONTEXT_LEN)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters that differ in rank, scale and what they change."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, base, seed, **changes) for seed, (name, changes) in enumerate(SPECIAL.items())
    }


@pytest.fixture
async def engine(base: Path) -> AsyncIterator[Engine]:
    engine = load(str(base), "generate", model_id="tiny", weights="float32", max_num_seqs=8)
    assert isinstance(engine, Engine)
    yield engine
    await engine.close()


@pytest.fixture
async def loaded(engine: Engine, folders: dict[str, Path]) -> Engine:
    for name, folder in folders.items():
        assert await engine.load_adapter(name, folder) > 0
    return engine


async def read(stream: Stream) -> Piece:
    whole = Piece()
    async with asyncio.timeout(20), stream:
        async for piece in stream:
            whole = whole + piece
    return whole


async def ask(engine: Engine, text: str, adapter: str, max_tokens: int) -> list[int]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, logit_bias=NEVER_END)
    return list((await read(engine.submit(engine.encode(text), params, adapter=adapter))).token_ids)


def reference(model: Any, text: str, max_tokens: int) -> list[int]:
    """Greedy tokens of a transformers model, never the end of text."""
    ids = torch.tensor([byte_tokenizer().encode(text)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        suppress_tokens=[256],
    )
    return list(out[0, ids.shape[1] :].tolist())


@pytest.fixture(scope="module")
def merged(base: Path, folders: dict[str, Path]) -> dict[str, Any]:
    return {"": merged_model(base, None)} | {name: merged_model(base, folder) for name, folder in folders.items()}


async def test_different_adapters_and_none_in_one_batch_equal_the_merged_models(
    loaded: Engine, merged: dict[str, Any]
) -> None:
    asked = [(text, name) for text in ("JOKE:", "Why did the chicken") for name in merged]
    answers = await asyncio.gather(*(ask(loaded, text, name, 40) for text, name in asked))
    for (text, name), answer in zip(asked, answers, strict=True):
        assert answer == reference(merged[name], text, 40), (text, name)
    distinct = {tuple(answer) for answer in answers[: len(merged)]}
    assert len(distinct) == len(merged)  # the adapters do change what the base says


async def test_prompts_that_are_read_in_chunks_equal_the_merged_models(loaded: Engine, merged: dict[str, Any]) -> None:
    text = "".join(chr(97 + i * i % 26) for i in range(400))  # more than one step reads
    streams = [asyncio.create_task(ask(loaded, "a", name, 60), name=f"short {name}") for name in merged]
    answers = await asyncio.gather(*(ask(loaded, text, name, 12) for name in merged))
    for name, answer in zip(merged, answers, strict=True):
        assert answer == reference(merged[name], text, 12), name
    for name, task in zip(merged, streams, strict=True):
        assert await task == reference(merged[name], "a", 60), name


async def test_with_int8_weights_an_adapter_answers_alone_as_it_does_among_others(
    base: Path, folders: dict[str, Path]
) -> None:
    engine = load(str(base), "generate", model_id="tiny", weights="int8", max_num_seqs=8)
    assert isinstance(engine, Engine)
    for name, folder in folders.items():
        await engine.load_adapter(name, folder)
    names = ["plain", "", "attention", "patterns", "plain", ""]
    together = await asyncio.gather(*(ask(engine, f"{i} JOKE:", name, 30) for i, name in enumerate(names)))
    alone = [await ask(engine, f"{i} JOKE:", name, 30) for i, name in enumerate(names)]
    without = [await ask(engine, f"{i} JOKE:", "", 30) for i in range(len(names))]
    await engine.close()
    assert together == alone
    assert [answer != plain for answer, plain in zip(alone, without, strict=True)] == [name != "" for name in names]


async def test_what_an_adapter_left_in_the_cache_is_nobody_elses(loaded: Engine, merged: dict[str, Any]) -> None:
    text = "one prompt for everybody, one after the other"
    assert await ask(loaded, text, "plain", 8) == reference(merged["plain"], text, 8)
    loaded.drop_adapter("plain")
    gc.collect()  # nothing is left of it but what it computed
    for name in ("", "attention", "", "patterns", "attention"):
        assert await ask(loaded, text, name, 8) == reference(merged[name], text, 8), name


async def test_adapters_come_and_go_while_others_stream(
    engine: Engine, folders: dict[str, Path], merged: dict[str, Any]
) -> None:
    streaming = asyncio.create_task(ask(engine, "b", "", 400), name="stream")
    for name, folder in [*folders.items()] * 3:
        await engine.load_adapter(name, folder)
        assert await ask(engine, "JOKE:", name, 5) == reference(merged[name], "JOKE:", 5)
        engine.drop_adapter(name)
    assert not streaming.done()  # or nothing was shown
    assert await streaming == reference(merged[""], "b", 400)


async def test_a_dropped_adapter_is_refused_by_name_but_its_running_sequence_ends_well_and_frees_it(
    loaded: Engine, merged: dict[str, Any]
) -> None:
    params = SamplingParams(max_tokens=300, temperature=0, logit_bias=NEVER_END)
    alive = weakref.ref(loaded._adapters["plain"])
    async with asyncio.timeout(20), loaded.submit(loaded.encode("c"), params, adapter="plain") as stream:
        pieces = aiter(stream)
        first = await anext(pieces)
        loaded.drop_adapter("plain")
        with pytest.raises(ModelNotFound, match=r"There is no model 'plain'\. Models here: attention, patterns\."):
            loaded.submit(loaded.encode("c"), params, adapter="plain")
        rest = [piece async for piece in pieces]
    tokens = [token for piece in (first, *rest) for token in piece.token_ids]
    assert tokens == reference(merged["plain"], "c", 300)
    await ask(loaded, "d", "", 1)  # the engine's thread has let go of the sequence
    gc.collect()
    assert alive() is None


async def test_an_adapter_loaded_again_under_its_name_is_the_new_one_for_new_sequences(
    loaded: Engine, folders: dict[str, Path], merged: dict[str, Any]
) -> None:
    before = asyncio.create_task(ask(loaded, "e", "plain", 300), name="before")
    await asyncio.sleep(0)
    await loaded.load_adapter("plain", folders["patterns"])
    assert await ask(loaded, "e", "plain", 20) == reference(merged["patterns"], "e", 20)
    assert await before == reference(merged["plain"], "e", 300)


def test_the_stack_is_written_only_when_an_adapter_comes(base: Path, folders: dict[str, Path]) -> None:
    host = Host.of(read_checkpoint(str(base), weights="float32").model)
    adapters = [read_adapter(name, folder, host) for name, folder in folders.items()]
    stack = AdapterStack()
    slots = stack.place(adapters)
    assert sorted(slots) == [0, 1, 2]
    before = {place: pair[0] for place, pair in stack.pairs.items()}
    assert stack.place(adapters[::-1]) == slots[::-1]
    assert stack.place(adapters[1:]) == slots[1:]
    assert all(stack.pairs[place][0] is matrix for place, matrix in before.items())
    other = read_adapter("other", folders["plain"], host)
    assert stack.place([*adapters, other])[:3] == slots
    assert all(stack.pairs[place][0] is matrix for place, matrix in before.items())  # there was room


# --- reading --------------------------------------------------------------------------------------------------------


def edit_config(folder: Path, target: Path, **changes: object) -> Path:
    """Copy an adapter with another config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | changes))
    return target


def host_of(base: Path, **changes: Any) -> Host:
    return replace(Host.of(read_checkpoint(str(base), weights="float32").model), **changes)


def refused(folder: Path, host: Host) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_adapter("x", folder, host)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "IA3"}, "its peft_type is 'IA3'; LORA is the one that runs here"),
        ({"use_dora": True}, "it sets use_dora to True"),
        ({"bias": "lora_only"}, "it sets bias to 'lora_only'"),
        ({"modules_to_save": ["wte"]}, "it sets modules_to_save to ['wte']"),
        ({"init_lora_weights": "pissa"}, "it sets init_lora_weights to 'pissa'"),
        ({"alora_invocation_tokens": [1]}, "it sets alora_invocation_tokens to [1]"),
        ({"something_of_tomorrow": 1}, "it sets something_of_tomorrow to 1"),
    ],
)
def test_a_config_that_does_not_run_is_refused_by_name(
    base: Path, folders: dict[str, Path], tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    assert sentence in refused(edit_config(folders["plain"], tmp_path / "x", **changes), host_of(base))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_layer": 1}, "does not fit its base model: it has a layer 1, the base has layers 0 to 0."),
        (
            {"n_embd": 64},
            "does not fit its base model: its layer 0 attn.c_proj goes from 32 to 32, the base's from 64 to 64.",
        ),
        (
            {"n_inner": 50},
            "does not fit its base model: its layer 0 mlp.c_fc goes from 32 to 128, the base's from 32 to 50.",
        ),
    ],
)
def test_an_adapter_of_another_size_is_refused_with_the_sizes(
    base: Path, tmp_path: Path, changes: dict[str, int], sentence: str
) -> None:
    only = {"n_embd": ["attn.c_proj"], "n_inner": ["c_fc"], "n_layer": ["c_attn"]}[next(iter(changes))]
    folder = save_adapter(tmp_path / "x", base, target_modules=only)
    assert sentence in refused(folder, host_of(base, **changes))


def test_torn_missing_and_foreign_tensors_are_refused(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["plain"], tmp_path / "x")
    path, host = folder / "adapter_model.safetensors", host_of(base)
    good = load_file(path)
    first = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"

    save_file({key: tensor for key, tensor in good.items() if key != first}, path)
    assert "of layer 0 attn.c_attn it has only lora_B." in refused(folder, host)
    save_file(good | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}, path)
    lm_head = "it changes base_model.model.lm_head.lora_A.weight; adapters may change attn.c_attn, attn.c_proj,"
    assert lm_head in refused(folder, host)
    save_file(good | {first: torch.full_like(good[first], float("nan"))}, path)
    assert "some of its numbers are not finite." in refused(folder, host)
    save_file(good | {first: good[first][:2].contiguous()}, path)
    assert "layer 0 attn.c_attn pairs matrices of (2, 32) and (96, 4)." in refused(folder, host)
    save_file({}, path)
    assert "adapter_model.safetensors holds nothing." in refused(folder, host)
    path.write_bytes(path.read_bytes()[:5])
    assert "adapter_model.safetensors could not be read:" in refused(folder, host)
    path.unlink()
    assert "has no adapter_model.safetensors: only safetensors are loaded." in refused(folder, host)
    (folder / "adapter_config.json").write_text("[]")
    assert "does not hold a JSON object." in refused(folder, host)


def test_matrices_are_held_in_the_hosts_number_format(base: Path, folders: dict[str, Path]) -> None:
    whole = read_adapter("x", folders["plain"], host_of(base))
    half = read_adapter("x", folders["plain"], host_of(base, dtype=torch.float16))
    assert 2 * half.size_bytes == whole.size_bytes
    assert half.layers[0]["qkv"].b.dtype == torch.float16
    assert isinstance(half, Adapter)
    assert half.rank == 4
