"""The pool: models come, are replaced and go while others go on. No torch here."""

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from model_service.config import ModelSettings
from model_service.errors import ModelFailed, ModelLoading, ModelNotFound, RequestRefused
from model_service.placement import failures
from model_service.placement.pool import Pool
from tests.support.shelf import LIMIT_S, Model, Shelf, reaches, source_of, spec, states


async def load_all(pool: Pool, specs: Iterable[ModelSettings]) -> None:
    for one in specs:
        await pool.load(one)


async def test_a_model_answers_once_it_is_loaded() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    pool.expect([spec("a")])
    pool.start()
    assert pool.missing() == {"a": "still loading"}
    assert not pool.ready
    with pool.generating("a") as visit:
        assert not await visit.arrives(0.01)
        shelf.gates["v1"].set()
        assert await visit.arrives(LIMIT_S)
        assert cast(Model, await visit.model()).source == "v1"
    assert pool.ready
    assert pool.folder("a") == Path("/models/v1")
    [held] = pool.describe()
    assert (held.state, held.size_bytes, held.weights, held.device_map, held.progress) == (
        "ready",
        1000,
        "float32",
        {"layers 0-1": "cpu"},
        None,
    )


async def test_without_preload_only_pinned_models_are_loaded_and_the_rest_counts_as_ready(tmp_path: Path) -> None:
    shelf = Shelf()
    pool = Pool(shelf)
    pool.expect([spec("a", "org/a"), spec("b", str(tmp_path)), spec("p", pinned=True)])
    pool.start(preload=False)
    await reaches(pool, "p", "ready")
    assert states(pool) == {"a": "unloaded", "b": "unloaded", "p": "ready"}
    assert pool.ready
    assert pool.folder("b") == tmp_path
    with pytest.raises(ModelLoading):  # nobody has fetched it yet; now it is
        pool.folder("a")
    await reaches(pool, "a", "ready")
    assert pool.folder("a") == Path("/models/org/a")
    assert await source_of(pool, "a") == "org/a"
    assert shelf.order == ["p", "a"]
    await asyncio.to_thread(tmp_path.rmdir)
    assert pool.missing() == {"b": f"there is no folder {tmp_path}"}


async def test_requests_for_one_model_wait_for_one_load_and_see_how_far_it_is() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    pool.expect([spec("a")])
    with pool.generating("a") as one, pool.generating("a") as two:
        assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
        shelf.progress["a"](0.43)  # on another thread in life; here before the loop runs again
        assert not await one.arrives(0.01)
        assert (one.progress, two.progress) == (0.43, 0.43)
        assert (pool.find("a").state, pool.find("a").progress) == ("loading", 0.43)
        shelf.gates["v1"].set()
        assert await one.model() is await two.model()
    assert shelf.order == ["a"]


async def test_past_the_limit_a_request_is_told_so_and_the_load_goes_on() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf, load_limit_s=0.05)
    pool.expect([spec("a")])
    sentence = r"'a' is still loading \(0 %\) after 0\.05 seconds"
    with pool.generating("a") as visit, pytest.raises(ModelLoading, match=sentence) as caught:
        await visit.model()
    assert caught.value.headers() == {"Retry-After": "2"}
    shelf.gates["v1"].set()
    await reaches(pool, "a", "ready")
    assert await source_of(pool, "a") == "v1"


async def test_a_load_that_everyone_left_while_it_waited_in_line_is_not_begun() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    pool.expect([spec("a"), spec("b", "v2"), spec("c", "v3")])
    with pool.generating("a") as first:
        with pool.generating("b"), pool.generating("c") as last:
            assert not await last.arrives(0.01)
            assert states(pool) == {"a": "loading", "b": "loading", "c": "loading"}
        shelf.gates["v1"].set()
        await first.model()
    assert await source_of(pool, "c") == "v3"
    assert shelf.order == ["a", "c"]
    assert pool.find("b").state == "unloaded"


async def test_a_failing_load_says_why_and_leaves_the_rest_serving() -> None:
    shelf = Shelf()
    shelf.broken["bad"] = ValueError("the weights are torn\nand more that nobody needs")
    pool = Pool(shelf)
    pool.expect([spec("a"), spec("b", "bad")])
    await pool.load(spec("a"))
    with pool.generating("b") as one, pool.generating("b") as two:
        for visit in (one, two):
            with pytest.raises(ModelFailed, match=r"'b' could not be loaded: the weights are torn$"):
                await visit.model()
    assert states(pool) == {"a": "ready", "b": "failed"}
    assert pool.missing() == {"b": "the weights are torn"}
    with pytest.raises(ModelFailed, match="torn") as caught:
        pool.generating("b")
    assert caught.value.headers() == {}  # it stays torn
    assert shelf.order == ["a", "b"]
    await pool.load(spec("b", "good"))  # a second try with other weights
    assert pool.ready


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"),
        OSError("connection reset"),
        type("OutOfMemoryError", (RuntimeError,), {})("no"),
    ],
)
async def test_what_may_go_better_later_is_tried_again_when_asked_after_a_pause(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 30.0)
    shelf = Shelf()
    wrapped = ValueError("it could not be read")
    wrapped.__cause__ = error
    shelf.broken["v1"] = wrapped
    pool = Pool(shelf)
    pool.expect([spec("a")])
    with pool.generating("a") as visit, pytest.raises(ModelFailed, match="tried again if somebody asks in 30 s"):
        await visit.model()
    with pytest.raises(ModelFailed, match="tried again") as caught:
        pool.generating("a")
    assert caught.value.headers() == {"Retry-After": "30"}
    del shelf.broken["v1"]
    later = failures.monotonic() + 31
    monkeypatch.setattr(failures, "monotonic", lambda: later)
    assert await source_of(pool, "a") == "v1"
    assert shelf.order == ["a", "a"]


def test_pauses_double_up_to_a_limit() -> None:
    backoff, pauses = failures.Backoff(), []
    for _ in range(12):
        backoff.failed()
        pauses.append(round(backoff.remaining_s))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    backoff.forgive()
    assert backoff.remaining_s == 0


@pytest.mark.parametrize(
    "error", [FileNotFoundError("gone"), ValueError("x"), RuntimeError("shapes differ"), KeyError()]
)
def test_what_stays_wrong_is_not_tried_again(error: Exception) -> None:
    assert not failures.is_transient(error)


async def test_a_failed_replacement_leaves_the_old_model_answering() -> None:
    shelf = Shelf()
    shelf.broken["v2"] = ValueError("no")
    pool = Pool(shelf)
    await pool.load(spec("a"))
    with pytest.raises(ModelFailed):
        await pool.load(spec("a", "v2"))
    assert await source_of(pool, "a") == "v1"
    assert states(pool) == {"a": "ready"}


async def test_a_replaced_model_is_closed_when_its_last_request_ends() -> None:
    shelf = Shelf()
    pool = Pool(shelf)
    await pool.load(spec("a"))
    with pool.generating("a") as visit:
        old = cast(Model, await visit.model())
        shelf.gates["v2"] = threading.Event()
        loading = asyncio.create_task(pool.load(spec("a", "v2")), name="loading")
        await asyncio.sleep(0)
        assert await source_of(pool, "a") == "v1"  # until the new one is there
        shelf.gates["v2"].set()
        await loading
        assert await source_of(pool, "a") == "v2"
        await asyncio.sleep(0)
        assert not old.closed.is_set()
    async with asyncio.timeout(LIMIT_S):
        await old.closed.wait()


async def test_a_request_that_never_ends_does_not_hold_the_old_weights_for_ever() -> None:
    pool = Pool(Shelf(), drain_limit_s=0.01)
    await pool.load(spec("a"))
    with pool.generating("a") as visit:
        old = cast(Model, await visit.model())
        await pool.load(spec("a", "v2"))
        async with asyncio.timeout(LIMIT_S):
            await old.closed.wait()


async def test_nothing_is_freed_while_a_model_is_loaded() -> None:
    """A GPU's graphs are captured then, which freed memory would break."""
    shelf = Shelf()
    shelf.gates["v2"] = threading.Event()
    pool = Pool(shelf)
    pool.expect([spec("b", "v2")])
    await pool.load(spec("a"))
    with pool.generating("a") as visit:
        old = cast(Model, await visit.model())
    shelf.started.clear()
    with pool.generating("b") as loading:
        assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
        await pool.unload("a")
        assert not await loading.arrives(0.02)
        assert not old.closed.is_set()
        shelf.gates["v2"].set()
        async with asyncio.timeout(LIMIT_S):
            await loading.model()
            await old.closed.wait()


async def test_an_unloaded_model_is_gone_at_once_and_closed_when_unused() -> None:
    pool = Pool(Shelf())
    await load_all(pool, [spec("a"), spec("b")])
    with pool.generating("a") as visit:
        old = cast(Model, await visit.model())
        await pool.unload("a")
        with pytest.raises(ModelNotFound, match=r"There is no model 'a'\. Models here: b\."):
            pool.generating("a")
        assert not old.closed.is_set()
    async with asyncio.timeout(LIMIT_S):
        await old.closed.wait()
    with pytest.raises(ModelNotFound):
        await pool.unload("a")


async def test_unloading_while_it_loads_wins_and_those_who_wait_hear_it() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    pool.expect([spec("a"), spec("b", "v2")])
    with pool.generating("a") as under_way, pool.generating("b") as in_line:
        assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
        await pool.unload("a")
        await pool.unload("b")
        shelf.gates["v1"].set()
        for visit in (under_way, in_line):
            with pytest.raises(ModelFailed, match="it was unloaded while it was loading"):
                await visit.model()
    assert pool.describe() == []


async def test_models_are_loaded_one_at_a_time() -> None:
    shelf = Shelf()
    shelf.gates["v1"] = threading.Event()
    pool = Pool(shelf)
    tasks = [asyncio.create_task(pool.load(spec(name)), name=name) for name in "abc"]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
    assert shelf.order == ["a"]
    shelf.gates["v1"].set()
    await asyncio.gather(*tasks)
    assert shelf.order == ["a", "b", "c"]
    assert shelf.most_loading == 1


async def test_a_model_answers_only_its_own_task() -> None:
    pool = Pool(Shelf())
    await load_all(pool, [spec("jokes"), spec("mood", task="classify")])
    with pytest.raises(RequestRefused, match="'mood' classifies texts"):
        pool.generating("mood")
    with pytest.raises(RequestRefused, match="'jokes' continues texts"):
        pool.classifying("jokes")
    assert [name for name, _ in pool.generators()] == ["jokes"]


async def test_a_model_whose_engine_died_is_loaded_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("model_service.placement.pool.CHECK_S", 0.01)
    pool = Pool(Shelf())
    pool.expect([spec("a")])
    await pool.load(spec("a"))
    with pool.generating("a") as visit:
        dead = cast(Model, await visit.model())
        dead.alive = False
        assert not pool.ready
        with pytest.raises(ModelFailed, match="its engine has stopped; the log says why") as caught:
            pool.generating("a")
        assert caught.value.headers() == {"Retry-After": "1"}
    watching = asyncio.create_task(pool.watch(), name="watching")
    await reaches(pool, "a", "ready")
    watching.cancel()
    assert pool.ready
    with pool.generating("a") as visit:
        assert cast(Model, await visit.model()) is not dead
    async with asyncio.timeout(LIMIT_S):
        await dead.closed.wait()


async def test_only_the_needed_models_decide_about_ready() -> None:
    shelf = Shelf()
    shelf.broken["torn"] = ValueError("torn")
    pool = Pool(shelf)
    pool.expect([spec("a")], [spec("ft:a:1:ftjob-1", "torn")])
    pool.start()
    assert states(pool) == {"a": "loading", "ft:a:1:ftjob-1": "unloaded"}
    await reaches(pool, "a", "ready")
    with pytest.raises(ModelFailed):
        await source_of(pool, "ft:a:1:ftjob-1")
    assert pool.ready


async def test_closing_closes_all_also_what_drains_and_what_is_being_loaded() -> None:
    shelf = Shelf()
    pool = Pool(shelf)
    pool.expect([], [spec("c", "late"), spec("d")])
    await load_all(pool, [spec("a"), spec("b")])
    models = []
    for name in "ab":
        with pool.generating(name) as visit:
            models.append(cast(Model, await visit.model()))
    shelf.gates["late"] = threading.Event()
    with pool.generating("a"):
        await pool.unload("a")
        shelf.started.clear()
        with pool.generating("c") as loading, pool.generating("d") as in_line:
            assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
            closing = asyncio.create_task(pool.close(), name="closing")
            async with asyncio.timeout(LIMIT_S):
                for model in models:
                    await model.closed.wait()
                for visit in (loading, in_line):
                    with pytest.raises(ModelFailed, match="the service is stopping"):
                        await visit.model()
            shelf.gates["late"].set()
            await closing
    with pytest.raises(ModelFailed, match="the service is stopping"):
        pool.generating("c")
    with pytest.raises(ModelFailed, match="the service is stopping"):
        await pool.load(spec("e"))


async def test_the_pool_is_busy_while_somebody_is_answered_or_waits_for_it() -> None:
    pool = Pool(Shelf())
    pool.expect([spec("a"), spec("b")])
    for name in ("a", "b"):
        await source_of(pool, name)
    (_, first), (_, second) = pool.generators()
    seen = []
    for running, waiting in ((0, 0), (1, 0), (0, 1)):
        first.num_running, first.num_waiting = 0, 0  # type: ignore[misc]
        second.num_running, second.num_waiting = running, waiting  # type: ignore[misc]
        seen.append(pool.busy)
    assert seen == [False, True, True]
