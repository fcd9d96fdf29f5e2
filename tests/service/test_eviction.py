"""Who leaves when there is no room, who waits, and that everyone is answered. Byte budgets instead of devices."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import cast

import pytest

from model_service.config import ModelSettings
from model_service.errors import ModelFailed, ModelNoRoom, QueueFull, ServiceError
from model_service.placement.pool import Pool
from model_service.placement.room import Placement
from tests.support.shelf import LIMIT_S, Budget, Model, Placed, Shelf, reaches, source_of, spec, states
from tests.support.shelf import source_under as shelf_source


def pool_of(
    sizes: dict[str, int], *, gpu: int, shelf: Shelf | None = None, limit_s: float = LIMIT_S, **pinned: bool
) -> Pool:
    """A pool over one device; each model's source is its name."""
    pool = Pool(shelf or Shelf(), Budget({"gpu": gpu}, sizes), load_limit_s=limit_s)
    pool.expect([spec(name, name, pinned=pinned.get(name, False)) for name in sizes])
    return pool


async def use(pool: Pool, *names: str) -> None:
    for name in names:
        assert await source_of(pool, name) == name


async def test_the_least_recently_used_leaves_and_loads_again_when_asked() -> None:
    pool = pool_of({"a": 4, "b": 4, "c": 4}, gpu=8)
    await use(pool, "a", "b", "a", "c")
    assert states(pool) == {"a": "ready", "b": "unloaded", "c": "ready"}
    assert pool.find("b").why == "It left to make room; it is loaded again when somebody asks for it."
    assert pool.find("c").device_bytes == {"gpu": 4}
    assert [(d.name, d.total_bytes, d.used_bytes) for d in pool.devices()] == [("gpu", 8, 8)]
    await use(pool, "b")
    assert states(pool) == {"a": "unloaded", "b": "ready", "c": "ready"}
    assert {name: counts.evictions for name, counts in pool.tally.models.items()} == {"a": 1, "b": 1, "c": 0}


async def test_a_model_that_is_being_loaded_already_has_its_place() -> None:
    shelf = Shelf()
    shelf.gates["a"] = threading.Event()
    pool = pool_of({"a": 4, "b": 3}, gpu=8, shelf=shelf)
    asking = asyncio.create_task(use(pool, "a"))
    assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
    assert pool.find("a").state == "loading"
    assert pool.find("a").device_bytes == {"gpu": 4}
    assert [d.used_bytes for d in pool.devices()] == [4]
    shelf.gates["a"].set()
    await asking
    assert [d.used_bytes for d in pool.devices()] == [4]


async def test_as_few_leave_as_make_the_room_and_none_on_another_device() -> None:
    sizes = {"old": 3, "elsewhere": 8, "small": 1, "middle": 4, "big": 7}
    pool = Pool(Shelf(), Budget({"gpu": 8, "cpu": 8}, sizes), load_limit_s=LIMIT_S)
    pool.expect([spec(name, name) for name in sizes])
    await use(pool, "old", "elsewhere", "small", "middle")
    assert pool.find("elsewhere").device_bytes == {"cpu": 8}
    await use(pool, "old", "small", "middle", "big")  # old, elsewhere, small, middle: least recent first
    assert states(pool) == {
        "old": "ready",
        "elsewhere": "unloaded",
        "small": "ready",
        "middle": "ready",
        "big": "ready",
    }


async def test_pinned_models_never_leave_and_what_does_not_fit_beside_them_is_refused_with_the_numbers() -> None:
    pool = pool_of({"a": 6, "b": 6}, gpu=8, a=True)
    pool.start(preload=False)
    await reaches(pool, "a", "ready")
    with pool.generating("b") as visit, pytest.raises(ModelNoRoom) as caught:
        await visit.model()
    assert caught.value.message == (
        "There is no room for the model 'b' now: it needs 6 bytes, and there is free: gpu 2. Pinned models stay: a."
    )
    assert (caught.value.status, caught.value.code) == (503, "no_room")
    assert int(caught.value.headers()["Retry-After"]) >= 1
    assert states(pool) == {"a": "ready", "b": "failed"}
    assert await source_of(pool, "a") == "a"


async def test_at_the_start_as_many_are_loaded_as_fit_and_none_leaves_for_another() -> None:
    shelf = Shelf()
    pool = pool_of({"a": 4, "b": 4, "c": 4, "d": 4}, gpu=8, shelf=shelf, d=True)
    pool.start()
    await reaches(pool, "a", "ready")
    await reaches(pool, "c", "unloaded")
    assert states(pool) == {"a": "ready", "b": "unloaded", "c": "unloaded", "d": "ready"}
    assert shelf.order == ["d", "a"]
    assert "it needs 4 bytes" in pool.find("b").why
    await use(pool, "b")
    assert pool.find("a").state == "unloaded"


async def test_a_model_that_is_used_stays_until_its_requests_end_and_takes_no_new_ones() -> None:
    pool = pool_of({"a": 6, "b": 6}, gpu=8)
    with pool.generating("a") as running:
        old = cast(Model, await running.model())
        with pool.generating("b") as waiting:
            assert not await waiting.arrives(0.05)
            with pool.generating("a") as late:
                assert not await late.arrives(0.05)
                assert not old.closed.is_set()
                assert await source_under(running) == "a"
                running.close()
                assert await source_under(waiting) == "b"
                assert old.closed.is_set()
                waiting.close()
                assert await source_under(late) == "a"
    assert states(pool) == {"a": "ready", "b": "unloaded"}


async def source_under(visit: object) -> str:
    async with asyncio.timeout(LIMIT_S):
        return shelf_source(await visit.model())  # type: ignore[attr-defined]


async def test_past_the_limit_the_numbers_are_said_and_the_busy_model_takes_requests_again() -> None:
    pool = pool_of({"a": 6, "b": 6}, gpu=8, limit_s=0.1)
    with pool.generating("a") as running:
        await running.model()
        with pool.generating("b") as visit, pytest.raises(ModelNoRoom, match=r"it needs 6 bytes.*gpu 2.*in 0\.1 s"):
            await visit.model()
        assert await source_of(pool, "a") == "a"
        assert states(pool) == {"a": "ready", "b": "unloaded"}


async def test_what_is_in_nobodys_way_is_loaded_while_the_first_in_line_waits_for_room() -> None:
    pool = pool_of({"a": 6, "b": 6, "small": 2, "large": 3}, gpu=9)
    with pool.generating("a") as running:
        await running.model()
        with pool.generating("b") as first, pool.generating("small") as small, pool.generating("large") as large:
            assert await source_under(small) == "small"
            assert not await large.arrives(0.05)  # it fits now, but would take what `first` waits for
            assert not first.over
            running.close()
            assert await source_under(first) == "b"
            small.close()
            assert await source_under(large) == "large"


async def test_a_swap_that_does_not_fit_beside_the_old_weights_fails_and_the_old_ones_go_on() -> None:
    pool = Pool(Shelf(), Budget({"gpu": 8}, {"v1": 5, "v2": 5, "v3": 3, "other": 3}), load_limit_s=0.2)
    await pool.load(spec("a", "v1"))
    with pytest.raises(
        ModelNoRoom, match=r"it needs 5 bytes, and there is free: gpu 3\..* What it replaces stays until it is there"
    ):
        await pool.load(spec("a", "v2"))
    assert await source_of(pool, "a") == "v1"
    await pool.load(spec("b", "other"))
    await pool.load(spec("a", "v3"))  # the other one leaves for it
    assert await source_of(pool, "a") == "v3"
    assert states(pool) == {"a": "ready", "b": "unloaded"}


async def test_old_weights_that_still_answer_hold_their_room_and_the_next_load_waits_for_it() -> None:
    pool = Pool(Shelf(), Budget({"gpu": 8}, {"v1": 3, "v2": 3, "b": 4}), load_limit_s=LIMIT_S)
    pool.expect([spec("a", "v1"), spec("b", "b")])
    with pool.generating("a") as old:
        await old.model()
        await pool.load(spec("a", "v2"))
        with pool.generating("a") as new, pool.generating("b") as waiting:
            assert await source_under(new) == "v2"
            assert not await waiting.arrives(0.05)
            assert await source_under(old) == "v1"
            old.close()
            assert await source_under(waiting) == "b"


async def test_nobody_waits_in_a_longer_line_than_the_limit() -> None:
    shelf = Shelf()
    shelf.gates["a"] = threading.Event()
    pool = Pool(shelf, max_waiting=2)
    pool.expect([spec("a", "a")])
    with pool.generating("a"), pool.generating("a"), pytest.raises(QueueFull):
        pool.generating("a")
    shelf.gates["a"].set()
    await pool.close()


async def test_whoever_is_unloaded_while_room_is_looked_for_sends_nobody_away() -> None:
    looking, go_on = threading.Event(), threading.Event()

    class Slow(Budget):
        def place(self, spec: ModelSettings, beside: Sequence[Placement]) -> Placed:
            if spec.name == "b" and not beside:  # would it fit if all others left?
                looking.set()
                assert go_on.wait(LIMIT_S)
            return super().place(spec, beside)

    pool = Pool(Shelf(), Slow({"gpu": 8}, {"a": 6, "b": 6, "c": 1}), load_limit_s=LIMIT_S)
    pool.expect([spec("a", "a"), spec("b", "b")])
    await use(pool, "a")
    with pool.generating("b") as visit:
        assert await asyncio.to_thread(looking.wait, LIMIT_S)
        await pool.unload("b")
        go_on.set()
        with pytest.raises(ModelFailed, match="unloaded while it was loading"):
            await visit.model()
    await pool.load(spec("c", "c"))  # whatever was left to do is done by then
    with pool.generating("a") as visit:
        assert visit.over


@pytest.mark.parametrize("seed", range(3))
async def test_many_clients_who_want_more_models_than_fit_are_all_answered_and_none_is_cut_off(seed: int) -> None:
    """Each asks for one model after the other; whoever has one is still served by it while others press for room."""
    dice, shelf = random.Random(seed), Shelf()
    sizes = {"a": 6, "b": 6, "c": 3, "d": 2}
    pool = pool_of(sizes, gpu=8, shelf=shelf)
    served: Counter[str] = Counter()

    async def client(names: list[str]) -> None:
        for name in names:
            with pool.generating(name) as visit:
                model = cast(Model, await visit.model())
                for _ in range(3):
                    await asyncio.sleep(0)
                    assert not model.closed.is_set()
                    assert sum(device.used_bytes for device in pool.devices()) <= 8
                assert model.source == name
            served[name] += 1

    wishes = [dice.choices(list(sizes), k=6) for _ in range(40)]
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(client(names) for names in wishes))
    assert sum(served.values()) == 240
    assert shelf.most_loading == 1
    assert len(shelf.order) < 240  # a load serves all who wait for it
    await pool.close()


async def test_clients_that_come_and_go_models_that_fail_and_are_unloaded_leave_nothing_behind() -> None:
    """Whatever happens, every wait ends, in an answer or a sentence, and the pool serves on."""
    dice, shelf = random.Random(5), Shelf()
    sizes = {"a": 6, "b": 6, "c": 3, "torn": 2}
    shelf.broken["torn"] = ValueError("torn")
    pool = pool_of(sizes, gpu=8, shelf=shelf)
    ends: Counter[str] = Counter()

    async def client() -> None:
        name = dice.choice([*sizes])
        try:
            with pool.generating(name) as visit:
                if dice.random() < 0.3:
                    await asyncio.wait_for(visit.model(), dice.random() / 100)
                else:
                    await visit.model()
                await asyncio.sleep(dice.random() / 1000)
            ends["served"] += 1
        except TimeoutError:
            ends["left"] += 1
        except ServiceError as error:
            ends[str(error.code)] += 1

    async def unload() -> None:
        for _ in range(5):
            await asyncio.sleep(0.01)
            if any(held.id == "c" for held in pool.describe()):
                await pool.unload("c")
            await pool.load(spec("c", "c"))

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(unload(), *(client() for _ in range(200)))
    assert sum(ends.values()) == 200
    assert ends["served"] > 50
    assert ends["model_failed"] > 10
    await use(pool, "a", "b", "c")
    await pool.close()


async def test_closing_while_many_wait_ends_every_wait() -> None:
    shelf = Shelf()
    shelf.gates["a"] = threading.Event()
    pool = pool_of({"a": 6, "b": 6}, gpu=8, shelf=shelf)
    visits = [pool.generating(name) for name in "abab"]
    assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
    closing = asyncio.create_task(pool.close(), name="closing")
    for visit in visits:
        with visit, pytest.raises(ModelFailed, match="the service is stopping"):
            await visit.model()
    shelf.gates["a"].set()
    async with asyncio.timeout(LIMIT_S):
        await closing
    assert shelf.order == ["a"]


async def test_who_waits_in_line_for_a_model_that_makes_room_is_told_that_its_turn_had_not_come() -> None:
    pool = pool_of({"a": 6, "b": 6}, gpu=8, limit_s=0.1)
    with pool.generating("a") as running:
        await running.model()
        with pool.generating("b") as first:
            assert not await first.arrives(0.02)
            sentence = r"'a' still waits for its turn to be loaded after 0\.1 seconds"
            with pool.generating("a") as late, pytest.raises(ServiceError, match=sentence):
                await late.model()


async def test_adapters_leave_with_their_base_and_keep_it_when_they_are_pinned_or_in_use() -> None:
    shelf = Shelf()
    shelf.adapters["ours"] = "a"
    pool = pool_of({"a": 6, "b": 6, "ours": 0}, gpu=8, shelf=shelf)
    with pool.generating("ours") as visit:
        assert await source_under(visit) == "ours on a"
        with pool.generating("b") as waiting:
            assert not await waiting.arrives(0.05)
            visit.close()
            assert await source_under(waiting) == "b"
    assert states(pool) == {"a": "unloaded", "b": "ready", "ours": "unloaded"}
    assert await source_of(pool, "ours") == "ours on a"
    assert states(pool) == {"a": "ready", "b": "unloaded", "ours": "ready"}

    pinned = pool_of({"a": 6, "b": 6, "ours": 0}, gpu=8, shelf=shelf, ours=True)
    pinned.start(preload=False)
    await reaches(pinned, "ours", "ready")
    with pytest.raises(ModelNoRoom, match="Pinned models stay: a"):
        await source_of(pinned, "b")
