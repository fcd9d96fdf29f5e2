"""Who is served when many wait: shares of tokens, and how long a newcomer waits, counted in a run without a model."""

import random
import statistics
from collections import Counter
from collections.abc import Iterable

import pytest

from model_service.engine.fair_queue import FairQueue, split
from model_service.engine.scheduler import Scheduler
from model_service.engine.sequence import SamplingParams, Sequence


def asks(id: int, user: str, tokens: int = 10, prompt_len: int = 1) -> Sequence:
    return Sequence(id, [0] * prompt_len, SamplingParams(max_tokens=tokens), seed=0, user=user)


def run(scheduler: Scheduler) -> list[Sequence]:
    """One step; returns the sequences that end in it."""
    for chunk in scheduler.schedule().chunks:
        chunk.sequence.num_computed = chunk.end
        if chunk.samples:
            chunk.sequence.token_ids.append(0)
    ended = [s for s in scheduler.running if s.num_generated >= s.params.max_tokens]
    for sequence in ended:
        scheduler.finish(sequence)
    return ended


def serve(scheduler: Scheduler) -> list[str]:
    """Run everything to the end; return whose sequences ended, in order."""
    order = []
    while not scheduler.idle:
        order += [s.user for s in run(scheduler)]
    return order


def tokens_while_all_wait(scheduler: Scheduler, users: Iterable[str], num_steps: int, seed: int = 0) -> Counter[str]:
    """Let every user always have some waiting, of changing length; return the tokens that each was given."""
    rng, given, ids = random.Random(seed), Counter[str](), iter(range(10**6))
    for _ in range(num_steps):
        waiting = Counter(s.user for s in scheduler.waiting)
        for user in users:
            for _ in range(3 - waiting[user]):
                scheduler.add(asks(next(ids), user, rng.randint(1, 40), rng.randint(1, 20)))
        chunks = scheduler.schedule().chunks
        for chunk in chunks:
            given[chunk.sequence.user] += chunk.end - chunk.start
            chunk.sequence.num_computed = chunk.end
            if chunk.samples:
                chunk.sequence.token_ids.append(rng.randrange(1, 9))
        for sequence in [s for s in scheduler.running if s.num_generated >= s.params.max_tokens]:
            scheduler.finish(sequence)
    return given


def jain(shares: list[float]) -> float:
    """Jain's index: 1 if all are equal, 1 / n if one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(x * x for x in shares))


def test_somebody_new_is_next_however_many_one_user_asked_for() -> None:
    scheduler = Scheduler(1)
    for i in range(20):
        scheduler.add(asks(i, "greedy"))
    run(scheduler)
    scheduler.add(asks(20, "modest"))
    assert serve(scheduler).index("modest") == 1


def test_beside_a_hundred_of_one_user_anothers_wait_for_a_slot_and_no_more() -> None:
    scheduler, waits = Scheduler(4), []
    for i in range(100):
        scheduler.add(asks(i, "guild:greedy", tokens=20 + i * 7 % 13))
    for i in range(100, 110):  # one after the other, as a person would
        run(scheduler)
        modest = asks(i, "guild:modest", tokens=20)
        scheduler.add(modest)
        waits.append(0)
        while not modest.num_generated:
            run(scheduler)
            waits[-1] += 1
        while modest.num_generated < 20:
            run(scheduler)
    assert max(waits) <= 32, "until one of the four ends, of 20 to 32 steps each"
    assert statistics.mean(waits) < 16, waits
    assert sum(s.user == "guild:greedy" for s in scheduler.waiting) > 40, "the others still wait"


@pytest.mark.parametrize("num_slots", [1, 4, 16])
def test_users_get_the_same_tokens_while_all_of_them_wait(num_slots: int) -> None:
    users = [f"guild:{i}" for i in range(6)]
    given = tokens_while_all_wait(Scheduler(num_slots), users, 6000)
    assert jain([given[user] for user in users]) > 0.99


def test_one_user_alone_in_a_guild_gets_as_much_as_a_full_guild() -> None:
    users = ["small:only", *(f"big:{i}" for i in range(9))]
    given = tokens_while_all_wait(Scheduler(4), users, 6000)
    assert given["small:only"] / given.total() == pytest.approx(0.5, abs=0.02)
    assert jain([given[user] for user in users[1:]]) > 0.99


def test_shares_are_kept_between_guilds_and_between_a_guilds_users() -> None:
    users = ["a:1", "a:2", "b:1", "c:1"]
    shares = {"b": 2.0, "a:2": 3.0}
    given = tokens_while_all_wait(Scheduler(4, shares=shares), users, 8000)
    wanted = {"a:1": 1 / 16, "a:2": 3 / 16, "b:1": 1 / 2, "c:1": 1 / 4}
    assert {user: given[user] / given.total() for user in users} == pytest.approx(wanted, abs=0.02)


def test_a_user_without_a_guild_is_one_of_their_own() -> None:
    assert (split("7"), split("7:8"), split("7:8:9")) == (("7", ""), ("7", "8"), ("7", "8:9"))
    given = tokens_while_all_wait(Scheduler(2), ["", "7", "8:1", "8:2"], 4000)
    assert [given[user] / given.total() for user in ("", "7")] == pytest.approx([1 / 3, 1 / 3], abs=0.02)


def test_being_away_saves_no_turns_and_leaves_no_account() -> None:
    scheduler = Scheduler(1)
    for i in range(10):
        scheduler.add(asks(i, "early"))
    for _ in range(45):
        run(scheduler)
    for i in range(10, 20):
        scheduler.add(asks(i, "late"))
    order = serve(scheduler)
    assert abs(order[:8].count("late") - 4) <= 1, order  # they alternate; late does not catch up on the past
    assert not scheduler.waiting.num_accounts, "nobody is remembered once all is quiet"


def test_accounts_do_not_pile_up_while_others_keep_the_engine_busy() -> None:
    scheduler = Scheduler(2)
    scheduler.add(asks(0, "always:on", tokens=10**6))
    most = 0
    for i in range(1, 500):
        scheduler.add(asks(i, f"guild{i}:user{i}", tokens=2))
        for _ in range(5):
            run(scheduler)
        most = max(most, scheduler.waiting.num_accounts)
    assert most < 50


def test_those_who_leave_the_queue_give_their_place_to_others() -> None:
    queue = FairQueue()
    sequences = [asks(i, f"g:{i % 2}") for i in range(4)]
    for sequence in sequences:
        queue.push(sequence)
    queue.remove(sequences[0])
    queue.remove(sequences[2])
    assert [queue.pop().id for _ in range(len(queue))] == [1, 3]
    assert not len(queue)
