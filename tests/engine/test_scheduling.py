"""Whose tokens run when: cancelling, deadlines, and how prompts are read beside streams."""

import asyncio
import statistics
import threading
from collections.abc import AsyncIterator
from collections.abc import Sequence as Seq
from pathlib import Path

import pytest

from model_service.engine.engine import Engine
from model_service.engine.engine_config import EngineConfig
from model_service.engine.flights import InTurn
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.runner import Result
from model_service.engine.scheduler import Chunk, Copy, Move, Scheduler, divide, neighbours
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.errors import DeadlinePassed
from model_service.models.lora import Adapter
from tests.engine.test_engine import greedy, read
from tests.support.tiny_models import byte_tokenizer

LIMIT_S = 20.0
ENDLESS = greedy(900)


class GatedRunner:
    """Runs a step when the test says so. `steps` lists the first prompt token of each sequence in each step."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self._allowed = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)

    async def begin(self) -> list[int]:
        """Wait until the next step has begun; returns who is in it."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=LIMIT_S)
        return self.steps[-1]

    def end(self, num_steps: int = 1) -> None:
        """Let the step that has begun end, or several that may follow, too."""
        self._allowed.release(num_steps)

    def step(self, chunks: Seq[Chunk]) -> list[Result]:
        self.steps.append([c.sequence.token_ids[0] for c in chunks])
        self._begun.release()
        assert self._allowed.acquire(timeout=LIMIT_S)
        return [Result(c.sequence, 100 if c.samples else None) for c in chunks]

    def move(self, move: Move) -> None:
        pass

    def copy(self, copy: Copy) -> None:
        pass

    def clear(self, slot: int) -> None:
        pass

    def read_adapter(self, name: str, folder: Path) -> Adapter:
        raise AssertionError(name)


@pytest.fixture
def runner() -> GatedRunner:
    return GatedRunner()


@pytest.fixture
async def engine(runner: GatedRunner) -> AsyncIterator[Engine]:
    config = EngineConfig("gated", context_len=1000, vocab_size=257, eos_token_id=256, max_num_seqs=2)
    engine = Engine(config, InTurn(runner), byte_tokenizer().backend_tokenizer)
    yield engine
    runner.end(10**6)
    await engine.close()


async def test_a_cancelled_sequence_is_out_of_the_next_step_and_another_is_in(
    engine: Engine, runner: GatedRunner
) -> None:
    streams = [engine.submit([i], ENDLESS) for i in range(3)]
    while await runner.begin() != [0, 1]:
        runner.end()
    streams[0].close()
    runner.end()
    assert await runner.begin() == [1, 2]


async def test_a_sequence_ends_with_a_sentence_in_the_step_after_its_deadline(
    engine: Engine, runner: GatedRunner
) -> None:
    running = engine.submit([0], ENDLESS, deadline_s=0.05)
    waiting = [engine.submit([i], ENDLESS, deadline_s=0.05 if i == 2 else None) for i in (1, 2, 3)]
    while await runner.begin() != [0, 1]:
        runner.end()
    await asyncio.sleep(0.06)  # one step that takes longer than the deadline
    runner.end()
    assert await runner.begin() == [1, 3], "the one that waited has never run"
    for stream in (running, waiting[1]):
        with pytest.raises(DeadlinePassed, match=r"not complete after 0\.05 seconds, which is the limit here"):
            await read(stream)
    assert all(2 not in step for step in runner.steps)


def test_deadlines_are_looked_at_only_when_one_is_due() -> None:
    scheduler = Scheduler(1)
    early, late, never = (Sequence(i, [0], SamplingParams(), seed=0) for i in range(3))
    early.limit(1.0, now=10.0)
    late.limit(5.0, now=10.0)
    for sequence in (early, late, never):
        scheduler.add(sequence)
    scheduler.schedule()
    assert scheduler.expired(10.9) == []
    assert scheduler.expired(11.0) == [early]
    scheduler.finish(early)
    assert scheduler.expired(14.9) == []
    assert scheduler.expired(15.1) == [late]


# --- the budget for prompts ---------------------------------------------------------------------------------------


class ScriptedMachine:
    """A machine with a fixed cost per step, per stream and per token of a prompt. Times in seconds."""

    def __init__(self, step_s: float, stream_s: float, token_s: float, prompt_s: float = 0.0) -> None:
        self._step_s, self._stream_s, self._token_s, self._prompt_s = step_s, stream_s, token_s, prompt_s

    def took_s(self, num_streams: int, num_prompt_tokens: int) -> float:
        extra = self._prompt_s if num_prompt_tokens else 0.0
        return self._step_s + num_streams * self._stream_s + num_prompt_tokens * self._token_s + extra


MACHINES = {
    "gpt2 small, two cores": ScriptedMachine(0.0040, 0.0003, 0.00030, prompt_s=0.001),
    "gpt2 medium, two cores": ScriptedMachine(0.0120, 0.0008, 0.00110, prompt_s=0.002),
}


def gaps_beside_prompts(
    machine: ScriptedMachine, budget: PrefillBudget, num_streams: int, prompt_len: int
) -> tuple[list[float], list[float]]:
    """Return the gaps of running streams: in steps without prompts, and while one prompt after the other is read."""
    scheduler = Scheduler(num_streams + 1, budget)
    for i in range(num_streams):
        scheduler.add(Sequence(i, [i], SamplingParams(), seed=0))
    alone: list[float] = []
    beside: list[float] = []
    for step in range(600):
        if step % 100 == 50 and len(scheduler.running) == num_streams:
            scheduler.add(Sequence(1000 + step, [step] * prompt_len, SamplingParams(), seed=0))
        plan = scheduler.schedule()
        took_s = machine.took_s(plan.num_streams, plan.num_prompt_tokens)
        budget.record(plan.num_streams, plan.num_prompt_tokens, took_s)
        (beside if plan.num_prompt_tokens else alone).append(took_s)
        for chunk in plan.chunks:
            chunk.sequence.num_computed = chunk.end
            if chunk.samples:
                chunk.sequence.token_ids.append(0)
        for sequence in [s for s in scheduler.running if s.id >= 1000 and s.num_generated]:
            scheduler.finish(sequence)
    return alone, beside


@pytest.mark.parametrize("num_streams", [1, 4, 15])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_thousand_token_prompt_does_not_freeze_streams(machine: ScriptedMachine, num_streams: int) -> None:
    alone, beside = gaps_beside_prompts(machine, PrefillBudget(), num_streams, 1000)
    assert max(beside) <= 3 * statistics.median(alone)
    assert statistics.median(beside) >= 1.5 * statistics.median(alone), "and reads as fast as that allows"


def test_where_few_tokens_take_as_long_as_many_a_prompt_is_read_in_a_few_steps() -> None:
    gpu = ScriptedMachine(0.0025, 0.00001, 0.000005, prompt_s=0.004)
    alone, beside = gaps_beside_prompts(gpu, PrefillBudget(least=256), 4, 1000)
    assert len(beside) <= 4 * 6
    assert max(beside) <= 4 * statistics.median(alone)


@pytest.mark.parametrize(("age", "all_read"), [(1, True), (20, False)])
def test_a_burst_of_prompts_is_read_at_once_beside_young_streams_and_bit_by_bit_beside_old_ones(
    age: int, all_read: bool
) -> None:
    scheduler = Scheduler(max_num_seqs=16)
    first = Sequence(0, [1] * 16, SamplingParams(max_tokens=99), seed=0)
    scheduler.add(first)
    for _ in range(age):
        for chunk in scheduler.schedule().chunks:
            chunk.sequence.num_computed = chunk.end
            chunk.sequence.token_ids.append(7)
    for i in range(1, 16):
        scheduler.add(Sequence(i, [1 + i] * 16, SamplingParams(max_tokens=99), seed=0))
    plan = scheduler.schedule()
    assert (plan.num_prompt_tokens == 15 * 16) is all_read
    assert plan.num_streams >= 1


def test_nobody_streaming_a_prompt_takes_a_whole_pass() -> None:
    budget = PrefillBudget(most=512)
    assert budget.tokens(0) == 512
    budget.record(0, 512, took_s=3.0)
    assert budget.tokens(0) == 512


def test_a_prompt_goes_on_beside_streams_however_slow_the_machine() -> None:
    budget = PrefillBudget(most=512, least=8)
    for _ in range(30):
        budget.record(1, 0, took_s=0.01)
        budget.record(1, budget.tokens(1), took_s=5.0)
    assert budget.tokens(1) == 8


def test_one_hiccup_of_the_machine_changes_little() -> None:
    machine, budget = MACHINES["gpt2 small, two cores"], PrefillBudget()
    for i in range(60):
        num_prompt_tokens = budget.tokens(4) if i % 2 else 0
        budget.record(4, num_prompt_tokens, machine.took_s(4, num_prompt_tokens))
    before = budget.tokens(4)
    budget.record(4, 0, took_s=2.0)
    budget.record(4, before, took_s=2.0)
    assert 0.7 * before <= budget.tokens(4) <= 1.3 * before


@pytest.mark.parametrize(
    ("missing", "budget", "sizes"),
    [
        ([], 10, []),
        ([4], 10, [4]),
        ([100], 10, [10]),
        ([100, 3], 10, [7, 3]),
        ([100, 50, 3], 10, [5, 2, 3]),
        ([100, 50, 30], 10, [5, 0, 5]),
        ([2, 100, 50], 10, [2, 0, 8]),
        ([9, 9], 1, [1, 0]),
    ],
)
def test_the_oldest_prompt_gets_half_and_the_shortest_go_before_the_rest(
    missing: list[int], budget: int, sizes: list[int]
) -> None:
    assert divide(missing, budget) == sizes


def test_a_micro_batch_comes_from_neighbouring_slots() -> None:
    streams = [Sequence(slot, [1], SamplingParams(), seed=0) for slot in range(8)]
    for slot, sequence in enumerate(streams):
        sequence.slot = slot
    assert neighbours(streams, None) == streams
    assert neighbours(streams, 4) == streams[:4], "of equal windows the first"
    assert neighbours([streams[i] for i in (0, 3, 4, 5, 7)], 4) == [streams[i] for i in (4, 5, 7)]
    assert neighbours([], 4) == []
