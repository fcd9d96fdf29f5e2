"""Adapters as models of the service: on their base's engine, under names of their own."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from model_service.config import ModelSettings
from model_service.engine.sequence import SamplingParams
from model_service.errors import Conflict, ModelFailed, ModelNotFound, RequestRefused
from model_service.models.folder import holds_adapter
from model_service.placement import failures
from model_service.placement.adapted import AdapterFolder, AdapterRefused, adapter_folder
from model_service.placement.loaded import Generator, Loaded
from model_service.placement.loads import Progress
from model_service.placement.pool import Pool
from model_service.placement.room import Placement
from tests.service.talk import NEVER_END, complete, refused, stream, text_of
from tests.support.adapters import merged_model, save_adapter
from tests.support.service_process import model_table, running_service
from tests.support.tiny_models import byte_tokenizer, save_tiny_generator

PARAMS = SamplingParams()


class Base:
    """An engine that knows only its adapters."""

    def __init__(self, source: str) -> None:
        self.source, self.closed, self.alive = source, asyncio.Event(), True
        self.num_running = self.num_waiting = self.reused_tokens = 0
        self.adapters: dict[str, Path] = {}
        self.misfits: set[str] = set()
        self.dropped, self.reading, self.gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def load_adapter(self, name: str, folder: Path) -> int:
        self.reading.set()
        await self.gate.wait()
        if folder.name in self.misfits:
            raise ValueError("its layers are too wide.")
        self.adapters[name] = folder
        return 10

    def drop_adapter(self, name: str) -> None:
        self.adapters.pop(name, None)
        self.dropped.set()

    def submit(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        user: str = "",
        adapter: str = "",
        deadline_s: float | None = None,
    ) -> Any:
        return self.source, self.adapters[adapter].name if adapter else ""

    async def close(self) -> None:
        self.closed.set()


class Shelf:
    """A loader: a source that begins with `on-` is an adapter of the rest."""

    def __init__(self) -> None:
        self.bases: list[Base] = []
        self.order: list[str] = []
        self.misfits: set[str] = set()
        self.torn: set[str] = set()

    def __call__(self, spec: ModelSettings, progress: Progress, placement: Placement) -> Loaded | AdapterFolder:
        self.order.append(spec.name)
        folder = Path("/models") / spec.source
        if spec.source.startswith("on-"):
            return AdapterFolder(folder, (spec.source.removeprefix("on-").split(":")[0],))
        if spec.source in self.torn:
            raise ValueError("torn")
        base = Base(spec.source)
        base.misfits = self.misfits
        self.bases.append(base)
        return Loaded(cast(Generator, base), folder, {"layers 0-1": "cpu"}, 1000, "int8")


def spec(name: str, source: str, **changes: object) -> ModelSettings:
    return ModelSettings.model_validate({"name": name, "source": source, **changes})


async def pool_of(*specs: ModelSettings, shelf: Shelf | None = None) -> tuple[Pool, Shelf]:
    shelf = shelf or Shelf()
    pool = Pool(shelf)
    for one in specs:
        await pool.load(one)
    return pool, shelf


async def answers(pool: Pool, name: str) -> object:
    with pool.generating(name) as visit:
        async with asyncio.timeout(5):
            return (await visit.model()).submit([1], PARAMS)


@pytest.mark.parametrize("says", ["base", "org/weights", "/models/org/weights"])
async def test_an_adapter_runs_on_its_base_by_name_source_or_folder(says: str) -> None:
    pool, shelf = await pool_of(spec("base", "org/weights"), spec("ours", f"on-{says}"))
    assert len(shelf.bases) == 1
    assert await answers(pool, "base") == ("org/weights", "")
    assert await answers(pool, "ours") == ("org/weights", Path(f"on-{says}").name)
    held = pool.find("ours")
    assert (held.state, held.size_bytes, held.weights, held.device_map) == ("ready", 10, "int8", {"layers 0-1": "cpu"})
    assert [name for name, _ in pool.generators()] == ["base"]  # one engine, counted once


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (spec("ours", "on-other"), r"adapter of 'other', which is not among the models here \(base, mood\)"),
        (spec("ours", "on-base", weights="float16"), "leave out its weights and devices"),
        (spec("ours", "on-base", task="classify"), "with task = generate"),
        (spec("ours", "on-mood"), "those run on models that generate"),
        (spec("base", "on-base"), r"not among the models here \(mood\)"),
    ],
)
async def test_an_adapter_that_cannot_run_is_refused_and_the_rest_serves_on(
    table: ModelSettings, sentence: str
) -> None:
    pool, _ = await pool_of(spec("base", "v1"), spec("mood", "m", task="classify"))
    with pytest.raises(ModelFailed, match=sentence):
        await pool.load(table)
    assert await answers(pool, "base") == ("v1", "")


async def test_a_dead_base_takes_no_adapters_until_it_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 30.0)
    pool, shelf = await pool_of(spec("base", "v1"), spec("first", "on-base"))
    shelf.bases[0].alive = False
    for name in ("second", "first"):
        with pytest.raises(
            ModelFailed, match=r"'base' could not be loaded: its engine has stopped.* asks in 30 s"
        ) as caught:
            await pool.load(spec(name, "on-base"))
        assert caught.value.headers() == {"Retry-After": "30"}
    later = failures.monotonic() + 31
    monkeypatch.setattr(failures, "monotonic", lambda: later)
    assert await answers(pool, "first") == ("v1", "on-base")
    assert await answers(pool, "second") == ("v1", "on-base")
    assert len(shelf.bases) == 2


async def test_an_adapter_loads_its_base_first_and_both_wait_for_one_load() -> None:
    shelf = Shelf()
    pool = Pool(shelf)
    pool.expect([spec("ours", "on-base"), spec("base", "v1")])
    with pool.generating("ours") as ours, pool.generating("base") as base:
        async with asyncio.timeout(5):
            assert (await ours.model()).submit([1], PARAMS) == ("v1", "on-base")
            assert (await base.model()).submit([1], PARAMS) == ("v1", "")
    assert len(shelf.bases) == 1
    assert {held.id: held.state for held in pool.describe()} == {"ours": "ready", "base": "ready"}
    assert pool.find("ours").why == "It runs on base."


async def test_an_adapter_whose_base_cannot_be_loaded_says_so() -> None:
    shelf = Shelf()
    shelf.torn.add("v1")
    pool = Pool(shelf)
    pool.expect([spec("ours", "on-base"), spec("base", "v1")])
    with pytest.raises(ModelFailed, match="'ours' could not be loaded: its base 'base' could not be loaded: torn"):
        await answers(pool, "ours")


async def test_unloading_an_adapter_drops_it_when_its_last_request_has_ended_and_keeps_the_base() -> None:
    pool, shelf = await pool_of(spec("base", "v1"), spec("ours", "on-base"))
    with pool.generating("ours") as visit:
        model = await visit.model()
        await pool.unload("ours")
        await asyncio.sleep(0)
        assert model.submit([1], PARAMS) == ("v1", "on-base")
    with pytest.raises(ModelNotFound):
        pool.generating("ours")
    async with asyncio.timeout(5):
        await shelf.bases[0].dropped.wait()
    assert shelf.bases[0].adapters == {}
    assert await answers(pool, "base") == ("v1", "")
    assert not shelf.bases[0].closed.is_set()


async def test_a_base_cannot_be_unloaded_under_its_adapters() -> None:
    pool, _ = await pool_of(spec("base", "v1"), spec("a", "on-base"), spec("b", "on-base"))
    with pytest.raises(Conflict, match=r"These adapters run on base: a, b\. Unload them first\."):
        await pool.unload("base")
    assert await answers(pool, "a") == ("v1", "on-base")
    for name in ("a", "b", "base"):
        await pool.unload(name)
    assert pool.describe() == []


async def test_a_replaced_base_takes_its_adapters_along_and_the_old_one_waits_for_their_requests() -> None:
    pool, shelf = await pool_of(spec("base", "v1"), spec("ours", "on-base"))
    with pool.generating("ours") as visit:
        old = await visit.model()
        await pool.load(spec("base", "v2"))
        assert await answers(pool, "base") == ("v2", "")
        assert await answers(pool, "ours") == ("v2", "on-base")
        await asyncio.sleep(0)
        assert old.submit([1], PARAMS) == ("v1", "on-base")
        assert not shelf.bases[0].closed.is_set()
    async with asyncio.timeout(5):
        await shelf.bases[0].closed.wait()
    assert await answers(pool, "ours") == ("v2", "on-base")


async def test_a_new_base_that_an_adapter_does_not_fit_changes_nothing() -> None:
    pool, shelf = await pool_of(spec("base", "v1"), spec("ours", "on-base"))
    shelf.misfits.add("on-base")
    with pytest.raises(ModelFailed, match=r"'base' could not be loaded: its layers are too wide\."):
        await pool.load(spec("base", "v2"))
    assert await answers(pool, "base") == ("v1", "")
    assert await answers(pool, "ours") == ("v1", "on-base")
    assert [base.closed.is_set() for base in shelf.bases] == [False, True]


async def test_an_adapter_does_not_replace_a_model_that_carries_others() -> None:
    pool, _ = await pool_of(spec("base", "v1"), spec("other", "w1"), spec("ours", "on-base"))
    with pytest.raises(ModelFailed, match="it would replace the base of ours"):
        await pool.load(spec("base", "on-other"))
    assert await answers(pool, "ours") == ("v1", "on-base")


async def test_an_adapter_replaced_by_another_of_its_name_keeps_answering() -> None:
    pool, shelf = await pool_of(spec("base", "v1"), spec("ours", "on-base:1"))
    await pool.load(spec("ours", "on-base:2"))
    async with asyncio.timeout(5):
        await shelf.bases[0].dropped.wait()
    assert len(shelf.bases[0].adapters) == 1
    assert await answers(pool, "ours") == ("v1", "on-base:2")


async def test_a_base_that_goes_while_an_adapter_is_read_fails_the_adapter() -> None:
    pool, shelf = await pool_of(spec("base", "v1"))
    shelf.bases[0].gate.clear()
    loading = asyncio.create_task(pool.load(spec("ours", "on-base")), name="loading")
    async with asyncio.timeout(5):
        await shelf.bases[0].reading.wait()
    await pool.unload("base")
    shelf.bases[0].gate.set()
    with pytest.raises(ModelFailed, match="its base 'base' was unloaded while it was loading"):
        await loading
    assert pool.find("ours").state == "failed"


async def test_an_adapter_is_no_base_for_training() -> None:
    pool, _ = await pool_of(spec("base", "v1"), spec("ours", "on-base"))
    with pytest.raises(RequestRefused, match="The model 'ours' is an adapter on 'base'"):
        pool.folder("ours")


def test_an_adapter_names_its_base_in_our_manifest_or_in_pefts_config(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "org/gpt2"}')
    assert holds_adapter(tmp_path)
    assert adapter_folder(tmp_path).bases == ("org/gpt2",)
    (tmp_path / "manifest.json").write_text('{"base": "gpt2"}')
    assert adapter_folder(tmp_path).bases == ("gpt2", "org/gpt2")
    config.write_text("[]")
    with pytest.raises(AdapterRefused, match=r"adapter_config\.json could not be read"):
        adapter_folder(tmp_path)
    (tmp_path / "model.safetensors").touch()  # merged weights beside it: a whole model
    assert not holds_adapter(tmp_path)


async def test_a_peft_folder_beside_its_base_answers_as_the_merged_model(tmp_path: Path) -> None:
    base = save_tiny_generator(tmp_path / "base")
    adapter = save_adapter(tmp_path / "ours", base, strength=0.5)
    models = model_table("ours", adapter) + model_table("tiny", base) + "weights = 'float32'\n"  # its base comes later
    expected = {name: continued(base, folder) for name, folder in (("tiny", None), ("ours", adapter))}
    assert expected["tiny"] != expected["ours"]
    with running_service(models) as service:
        async with service.client() as client:
            fields: dict[str, Any] = {"max_tokens": 24, "temperature": 0, **NEVER_END}
            whole = await asyncio.gather(*(complete(client, model=name, **fields) for name in expected))
            assert {answer["model"]: answer["choices"][0]["text"] for answer in whole} == expected
            assert text_of(await stream(client, model="ours", **fields)) == expected["ours"]
            async with client.get("/v1/models") as response:
                cards = {card["id"]: card for card in (await response.json())["data"]}
            assert cards["ours"]["state"] == "ready"
            assert 0 < cards["ours"]["bytes"] < cards["tiny"]["bytes"]
            status, error = await refused(client, model="nobody", prompt="x")
            assert (status, error["code"]) == (404, "model_not_found")
        assert "Traceback" not in service.log, service.log


def continued(base: Path, adapter: Path | None) -> str:
    """What PEFT's merged model says after `JOKE:`, greedily and without end."""
    import torch

    ids = torch.tensor([byte_tokenizer().encode("JOKE:")])
    out = merged_model(base, adapter).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, suppress_tokens=[256]
    )
    text: str = byte_tokenizer().decode(out[0, ids.shape[1] :])
    return text
