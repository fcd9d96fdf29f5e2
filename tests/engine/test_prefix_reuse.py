"""Prompts that begin alike are read once: with the right keys and values, whatever came, went, moved or broke."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model_service.engine.engine import Engine
from model_service.engine.loading import load
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.scheduler import Copy, Move, Plan, Scheduler
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.engine.slots import common_prefix
from tests.engine.test_engine import ask, greedy, read
from tests.support.tiny_models import save_tiny_generator


class FakeAdapter:
    """Something that can be told from others, as an adapter in memory can."""


def make_sequence(
    id: int, prompt_ids: list[int], adapter: FakeAdapter | None = None, params: SamplingParams | None = None
) -> Sequence:
    return Sequence(id, prompt_ids, params or SamplingParams(), seed=0, adapter=adapter)  # type: ignore[arg-type]


Entry = tuple[int, FakeAdapter | None] | None  # the token and adapter a key was made from; None: never, or garbage


@dataclass
class FakeCache:
    """Remembers what was written where, and fails if a chunk would attend to anything but its own past."""

    num_slots: int
    context_len: int = 64
    entries: list[list[Entry]] = field(init=False)
    num_run: int = 0

    def __post_init__(self) -> None:
        self.entries = [[None] * self.context_len for _ in range(self.num_slots)]

    def run(self, plan: Plan) -> None:
        for transfer in plan.transfers:
            self.transfer(transfer)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            slot = self.entries[sequence.slot]
            past = [(token, sequence.adapter) for token in sequence.token_ids[: chunk.start]]
            assert slot[: chunk.start] == past, f"sequence {sequence.id} would read another's past"
            for position in range(chunk.start, chunk.end):
                slot[position] = (sequence.token_ids[position], sequence.adapter)
            self.num_run += chunk.end - chunk.start

    def transfer(self, transfer: Move | Copy) -> None:
        source, target = self.entries[transfer.source], self.entries[transfer.target]
        n = transfer.length
        if isinstance(transfer, Move):
            garbage: list[Entry] = [None] * (self.context_len - n)
            source[:], target[:] = target[:n] + garbage, source[:n] + garbage
        else:
            target[:n] = source[:n]


def step(scheduler: Scheduler, cache: FakeCache, rng: random.Random) -> Plan:
    plan = scheduler.schedule()
    cache.run(plan)
    for chunk in plan.chunks:
        chunk.sequence.num_computed = chunk.end
        if chunk.samples:
            chunk.sequence.token_ids.append(rng.randrange(3))
    return plan


def finish(scheduler: Scheduler, cache: FakeCache, sequence: Sequence) -> None:
    if move := scheduler.finish(sequence):
        cache.transfer(move)


@pytest.mark.parametrize("seed", range(40))
def test_every_token_attends_to_its_own_past_under_random_traffic(seed: int) -> None:
    rng = random.Random(seed)
    num_slots = rng.choice([1, 2, 3, 5, 8])
    scheduler = Scheduler(num_slots, PrefillBudget(most=rng.choice([1, 3, 16, 64]), least=1, first=rng.choice([1, 4])))
    cache, adapters = FakeCache(num_slots), [None, None, FakeAdapter(), FakeAdapter()]
    alive: list[Sequence] = []
    stems = [[rng.randrange(3) for _ in range(40)] for _ in range(3)]
    for i in range(300):
        for j in range(rng.choice([0, 0, 1, 3])):
            prompt = rng.choice(stems)[: rng.randint(1, 40)] + [rng.randrange(3) for _ in range(rng.randint(0, 3))]
            echo = SamplingParams(echo=rng.random() < 0.1, logprobs=0)
            alive.append(make_sequence(4 * i + j, prompt, rng.choice(adapters), echo))
            scheduler.add(alive[-1])
        if rng.random() < 0.01:
            adapters[2] = FakeAdapter()  # the old one is dropped, and another loaded under its name
        plan = step(scheduler, cache, rng)
        assert plan.chunks or not scheduler.running, "somebody always goes on"
        assert [s.slot for s in scheduler.running] == list(range(len(scheduler.running)))
        for sequence in [s for s in alive if rng.random() < 0.1 or len(s.token_ids) > 60]:
            if rng.random() < 0.1 and sequence.slot >= 0 and sequence.num_computed:
                cache.entries[sequence.slot] = [None] * cache.context_len  # its numbers broke
                scheduler.forget(sequence.slot)
            finish(scheduler, cache, sequence)
            alive.remove(sequence)
        if rng.random() < 0.01:
            for sequence in scheduler.drop_running():
                alive.remove(sequence)
            cache.entries = FakeCache(num_slots).entries
    while alive:  # all of them come to an end
        step(scheduler, cache, rng)
        for sequence in [s for s in alive if s.num_generated]:
            finish(scheduler, cache, sequence)
            alive.remove(sequence)
    assert scheduler.reused_tokens


def test_the_common_prefix_is_found_whatever_its_length() -> None:
    rng = random.Random(0)
    for _ in range(300):
        a, b = ([rng.randrange(2) for _ in range(12)] for _ in range(2))
        limit = rng.randint(0, 12)
        same = [x == y for x, y in zip(a[:limit], b[:limit], strict=True)]
        assert common_prefix(a, b, limit) == [*same, False].index(False)


PROMPT = list(range(100, 150))


def ask_once(scheduler: Scheduler, cache: FakeCache, sequence: Sequence) -> int:
    """Run a sequence until its first token, and end it; returns how many tokens that took."""
    before = cache.num_run
    scheduler.add(sequence)
    while not sequence.num_generated:
        step(scheduler, cache, random.Random(0))
    finish(scheduler, cache, sequence)
    return cache.num_run - before


def test_what_a_sequence_left_behind_is_not_read_again() -> None:
    scheduler, cache = Scheduler(2), FakeCache(2)
    took = [
        ask_once(scheduler, cache, make_sequence(i, prompt)) for i, prompt in enumerate((PROMPT, [*PROMPT, 7], PROMPT))
    ]
    assert took == [50, 1, 1], "the last token of a prompt runs: it predicts"
    assert scheduler.reused_tokens == 50 + 49


def test_two_prompts_in_turn_each_find_their_own() -> None:
    scheduler, cache = Scheduler(4), FakeCache(4)
    other = [token + 100 for token in PROMPT]
    prompts = [(other if i % 2 else PROMPT) + [i] for i in range(6)]
    took = [ask_once(scheduler, cache, make_sequence(i, prompt)) for i, prompt in enumerate(prompts)]
    assert took == [51, 51, 1, 1, 1, 1]


def test_a_prompt_that_shares_little_does_not_cost_a_long_one_its_place() -> None:
    scheduler, cache = Scheduler(2), FakeCache(2)
    prompts = [PROMPT, [*PROMPT[:8], 1, 2, 3], PROMPT]
    assert [ask_once(scheduler, cache, make_sequence(i, prompt)) for i, prompt in enumerate(prompts)] == [50, 3, 1]


def test_several_of_one_prompt_at_once_read_it_once() -> None:
    scheduler, cache = Scheduler(4, PrefillBudget(most=20)), FakeCache(4)
    sequences = [make_sequence(i, PROMPT) for i in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    steps = 0
    while not all(s.num_generated for s in sequences):
        step(scheduler, cache, random.Random(0))
        steps += 1
    assert steps == 4, "three for the prompt; the others follow one step later"
    assert scheduler.reused_tokens == 3 * 49


def test_whoever_waits_for_a_prompt_that_is_cancelled_reads_on_from_there() -> None:
    scheduler, cache = Scheduler(2, PrefillBudget(most=10)), FakeCache(2)
    first, second = make_sequence(0, PROMPT), make_sequence(1, PROMPT)
    scheduler.add(first)
    scheduler.add(second)
    assert [c.sequence for c in step(scheduler, cache, random.Random(0)).chunks] == [first]
    finish(scheduler, cache, first)
    chunk = step(scheduler, cache, random.Random(0)).chunks[0]
    assert (chunk.sequence, chunk.start, chunk.end) == (second, 10, 20)


def test_the_prompts_own_logprobs_are_never_skipped() -> None:
    scheduler, cache = Scheduler(2), FakeCache(2)
    ask_once(scheduler, cache, make_sequence(0, PROMPT))
    echo = make_sequence(1, PROMPT, params=SamplingParams(echo=True, logprobs=1))
    scheduler.add(echo)
    assert [c.start for c in scheduler.schedule().chunks if c.sequence is echo] == [0]


def test_adapters_do_not_share_keys() -> None:
    scheduler, cache, adapter = Scheduler(4), FakeCache(4), FakeAdapter()
    worn = (None, adapter, FakeAdapter(), adapter)
    took = [ask_once(scheduler, cache, make_sequence(i, PROMPT, wears)) for i, wears in enumerate(worn)]
    assert took == [50, 50, 50, 1]


def test_what_an_adapter_that_is_gone_has_computed_is_not_taken_for_the_models_own() -> None:
    scheduler = Scheduler(2)
    scheduler.add(make_sequence(0, PROMPT, FakeAdapter()))
    scheduler.schedule()
    scheduler.running[0].num_computed = len(PROMPT)
    scheduler.finish(scheduler.running[0])  # the last that held the adapter
    plain = make_sequence(1, PROMPT)
    scheduler.add(plain)
    assert [(c.sequence, c.start) for c in scheduler.schedule().chunks] == [(plain, 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[Engine]:
    engine = load(str(folder), "generate", model_id="tiny", weights="float32", max_num_seqs=4, max_queue=64)
    assert isinstance(engine, Engine)
    yield engine
    await engine.close()


@pytest.mark.parametrize("weights", ["float32", "int8"])
async def test_answers_are_the_same_with_and_without_reuse(folder: Path, weights: str) -> None:
    stem = "JOKE: Why did the chicken cross the road? " * 2
    texts = [stem[: 20 + 3 * i] + "abc"[i % 3] for i in range(20)]
    engine = load(str(folder), "generate", model_id="tiny", weights=weights, max_num_seqs=4)
    assert isinstance(engine, Engine)
    lengths = [5 + 3 * (i % 7) for i in range(len(texts))]  # so that they end in another order than they came
    params = [greedy(length, logit_bias=((256, -100),)) for length in lengths]
    answers = await asyncio.gather(*(ask(engine, text, p) for text, p in zip(texts, params, strict=True)))
    assert engine.reused_tokens > 500
    for text, wanted, answer in zip(texts, params, answers, strict=True):
        fresh = load(str(folder), "generate", model_id="fresh", weights=weights, max_num_seqs=1)
        assert isinstance(fresh, Engine)
        assert (await ask(fresh, text, wanted)).token_ids == answer.token_ids
        assert fresh.reused_tokens == 0
        await fresh.close()
    await engine.close()


async def test_n_answers_to_one_prompt_read_it_once(engine: Engine) -> None:
    prompt = engine.encode("JOKE: Why did the chicken cross the road? Because it could, and")
    streams = [engine.submit(prompt, SamplingParams(max_tokens=3, seed=i)) for i in range(4)]
    await asyncio.gather(*(read(stream) for stream in streams))
    assert engine.reused_tokens == 3 * (len(prompt) - 1)
