"""The pool: models come, are replaced and go while others go on. No torch here."""

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from model_service.config import ModelSettings
from model_service.errors import ModelFailed, ModelLoading, ModelNotFound, RequestRefused
from model_service.placement.loaded import Generator, Loaded
from model_service.placement.pool import Pool


class Model:
    """A model that knows only whether it was closed."""

    def __init__(self, source: str) -> None:
        self.source, self.closed, self.alive = source, asyncio.Event(), True

    async def close(self) -> None:
        self.closed.set()


class Shelf:
    """A loader whose models are made by the test: `hold` one source back, `break_` another."""

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.broken: dict[str, Exception] = {}
        self.order: list[str] = []
        self.started = threading.Event()
        self.num_loading = self.most_loading = 0

    def __call__(self, spec: ModelSettings) -> Loaded:
        self.num_loading += 1
        self.most_loading = max(self.most_loading, self.num_loading)
        self.order.append(spec.name)
        self.started.set()
        try:
            return self._load(spec)
        finally:
            self.num_loading -= 1

    def _load(self, spec: ModelSettings) -> Loaded:
        if spec.source in self.gates:
            assert self.gates[spec.source].wait(10)
        if spec.source in self.broken:
            raise self.broken[spec.source]
        model = cast(Generator, Model(spec.source))
        return Loaded(model, Path("/models") / spec.source, {"layers 0-1": "cpu"}, 1000, "float32")


def spec(name: str, source: str = "v1", task: str = "generate") -> ModelSettings:
    return ModelSettings.model_validate({"name": name, "source": source, "task": task})


def source_of(pool: Pool, name: str) -> str:
    return cast(Model, pool.engine(name)).source


def states(pool: Pool) -> dict[str, str]:
    return {held.id: held.state for held in pool.describe()}


async def load_all(pool: Pool, specs: Iterable[ModelSettings]) -> None:
    for one in specs:
        await pool.load(one)


async def test_a_model_answers_once_it_is_loaded() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    pool.expect([spec("a")])
    loading = asyncio.create_task(pool.load(spec("a")), name="loading")
    with pytest.raises(ModelLoading, match="'a' is still loading"):
        pool.engine("a")
    assert not pool.ready
    assert pool.missing() == {"a": "still loading"}
    shelf.gates["v1"].set()
    await loading
    assert pool.ready
    assert source_of(pool, "a") == "v1"
    assert pool.folder("a") == Path("/models/v1")
    [held] = pool.describe()
    assert (held.state, held.size_bytes, held.weights, held.device_map) == (
        "ready",
        1000,
        "float32",
        {"layers 0-1": "cpu"},
    )


async def test_a_failing_load_says_why_and_leaves_the_rest_serving() -> None:
    shelf = Shelf()
    shelf.broken["bad"] = ValueError("the weights are torn\nand more that nobody needs")
    pool = Pool(shelf)
    pool.expect([spec("a"), spec("b", "bad")])
    await pool.load(spec("a"))
    with pytest.raises(ModelFailed, match=r"'b' could not be loaded: the weights are torn$"):
        await pool.load(spec("b", "bad"))
    assert states(pool) == {"a": "ready", "b": "failed"}
    assert pool.missing() == {"b": "the weights are torn"}
    with pytest.raises(ModelFailed):
        pool.engine("b")
    await pool.load(spec("b", "good"))  # a second try with other weights
    assert pool.ready


async def test_a_failed_replacement_leaves_the_old_model_answering() -> None:
    shelf = Shelf()
    shelf.broken["v2"] = ValueError("no")
    pool = Pool(shelf)
    await pool.load(spec("a"))
    with pytest.raises(ModelFailed):
        await pool.load(spec("a", "v2"))
    assert source_of(pool, "a") == "v1"
    assert states(pool) == {"a": "ready"}


async def test_a_replaced_model_is_closed_when_its_last_request_ends() -> None:
    shelf = Shelf()
    pool = Pool(shelf)
    await pool.load(spec("a"))
    with pool.generating("a") as old:
        shelf.gates["v2"] = threading.Event()
        loading = asyncio.create_task(pool.load(spec("a", "v2")), name="loading")
        await asyncio.sleep(0)
        assert source_of(pool, "a") == "v1"  # until the new one is there
        shelf.gates["v2"].set()
        await loading
        assert source_of(pool, "a") == "v2"
        await asyncio.sleep(0)
        assert not cast(Model, old).closed.is_set()
    async with asyncio.timeout(5):
        await cast(Model, old).closed.wait()


async def test_a_request_that_never_ends_does_not_hold_the_old_weights_for_ever() -> None:
    pool = Pool(Shelf(), drain_limit_s=0.01)
    await pool.load(spec("a"))
    with pool.generating("a") as old:
        await pool.load(spec("a", "v2"))
        async with asyncio.timeout(5):
            await cast(Model, old).closed.wait()


async def test_an_unloaded_model_is_gone_at_once_and_closed_when_unused() -> None:
    pool = Pool(Shelf())
    await load_all(pool, [spec("a"), spec("b")])
    with pool.generating("a") as old:
        await pool.unload("a")
        with pytest.raises(ModelNotFound, match=r"There is no model 'a'\. Models here: b\."):
            pool.engine("a")
        assert not cast(Model, old).closed.is_set()
    async with asyncio.timeout(5):
        await cast(Model, old).closed.wait()
    with pytest.raises(ModelNotFound):
        await pool.unload("a")


async def test_unloading_while_it_loads_wins() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    loading = asyncio.create_task(pool.load(spec("a")), name="loading")
    await asyncio.sleep(0)
    await pool.unload("a")
    shelf.gates["v1"].set()
    with pytest.raises(ModelFailed, match="it was unloaded while it was loading"):
        await loading
    assert pool.describe() == []


async def test_models_are_loaded_one_at_a_time() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    tasks = [asyncio.create_task(pool.load(spec(name)), name=name) for name in "abc"]
    assert await asyncio.to_thread(shelf.started.wait, 5)
    assert shelf.order == ["a"]
    shelf.gates["v1"].set()
    await asyncio.gather(*tasks)
    assert shelf.order == ["a", "b", "c"]
    assert shelf.most_loading == 1


async def test_a_model_answers_only_its_own_task() -> None:
    pool = Pool(Shelf())
    await load_all(pool, [spec("jokes"), spec("mood", task="classify")])
    with pytest.raises(RequestRefused, match="'mood' classifies texts"):
        pool.engine("mood")
    with pytest.raises(RequestRefused, match="'jokes' continues texts"):
        pool.classifier("jokes")
    assert [name for name, _ in pool.generators()] == ["jokes"]


async def test_a_model_whose_engine_died_is_not_ready() -> None:
    pool = Pool(Shelf())
    pool.expect([spec("a")])
    await pool.load(spec("a"))
    cast(Model, pool.engine("a")).alive = False
    assert not pool.ready
    assert pool.missing() == {"a": "its engine has stopped: restart the service; the log says why"}


async def test_only_the_needed_models_decide_about_ready() -> None:
    shelf = Shelf()
    shelf.broken["torn"] = ValueError("torn")
    pool = Pool(shelf)
    pool.expect([spec("a")], [spec("ft:a:1:ftjob-1", "torn")])
    assert states(pool) == {"a": "loading", "ft:a:1:ftjob-1": "loading"}
    await pool.load(spec("a"))
    with pytest.raises(ModelFailed):
        await pool.load(spec("ft:a:1:ftjob-1", "torn"))
    assert pool.ready


async def test_closing_closes_all_also_what_drains_and_what_is_being_loaded() -> None:
    shelf = Shelf()
    pool = Pool(shelf)
    await load_all(pool, [spec("a"), spec("b")])
    models = [cast(Model, pool.engine(name)) for name in "ab"]
    shelf.gates["late"] = threading.Event()
    with pool.generating("a"):
        await pool.unload("a")
        loading = asyncio.create_task(pool.load(spec("c", "late")), name="loading")
        await asyncio.sleep(0)
        closing = asyncio.create_task(pool.close(), name="closing")
        async with asyncio.timeout(5):
            for model in models:
                await model.closed.wait()
        shelf.gates["late"].set()
        await closing
    with pytest.raises(ModelFailed, match="the service is stopping"):
        await loading
