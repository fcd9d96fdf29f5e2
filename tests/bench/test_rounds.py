"""Alternating rounds and the arithmetic of ratios, with engines that are scripted."""

import pytest

from model_service.bench.children import ChildFailed, Outcome
from model_service.bench.contestants import Entry
from model_service.bench.rounds import Runs, WrongTokens, alternate, figures
from model_service.bench.task import Task

OURS, LLAMA, CT2 = Entry("punchline", "int8"), Entry("llama.cpp", "Q8_0"), Entry("ctranslate2", "int8")


class Scripted:
    """An engine that takes the seconds it is told, and writes down what it did."""

    def __init__(self, entry: Entry, seconds: list[float], log: list[tuple[Entry, Task]], made: int = 4) -> None:
        self.entry, self._seconds, self._log, self._made = entry, list(seconds), log, made

    def run(self, task: Task) -> Outcome:
        self._log.append((self.entry, task))
        if not self._seconds:
            raise ChildFailed("its process ended with exit code -9")
        return Outcome(self._seconds.pop(0), [[1] * self._made] * task.batch)


def measured(
    *workers: Scripted, rounds: int, failures: list[tuple[Entry, Exception]] | None = None
) -> dict[Entry, list[float]]:
    def failed(worker: Runs, error: Exception) -> None:
        assert failures is not None, error
        failures.append((worker.entry, error))

    task = Task(batch=2, prompt_len=3, new_tokens=4)
    return alternate(workers, task, rounds, tokens=lambda t: t.batch * t.new_tokens, failed=failed, settle_s=0)


def test_in_every_round_every_engine_does_the_same_task_and_another_one_begins() -> None:
    log: list[tuple[Entry, Task]] = []
    measured(*(Scripted(e, [1.0] * 4, log) for e in (OURS, LLAMA, CT2)), rounds=4)
    order = [[entry for entry, _ in log[i : i + 3]] for i in range(0, 12, 3)]
    assert order == [[OURS, LLAMA, CT2], [LLAMA, CT2, OURS], [CT2, OURS, LLAMA], [OURS, LLAMA, CT2]]
    seeds = [{task.seed for _, task in log[i : i + 3]} for i in range(0, 12, 3)]
    assert all(len(seed) == 1 for seed in seeds)
    assert len(set.union(*seeds)) == 4, "each round has prompts of its own"


def test_the_ratio_is_the_median_of_each_rounds_ratio_to_its_best_peer() -> None:
    log: list[tuple[Entry, Task]] = []
    speeds = measured(
        Scripted(OURS, [1.0, 2.0, 4.0], log),  # 8, 4, 2 tokens/s
        Scripted(LLAMA, [2.0, 2.0, 8.0], log),  # 4, 4, 1
        Scripted(CT2, [4.0, 1.0, 16.0], log),  # 2, 8, 0.5
        rounds=3,
    )
    ours, llama, ct2 = figures(speeds)
    assert (ours.tokens_per_s, ours.ratio_to_best_peer) == (4.0, 2.0)  # of 8/4, 4/8, 2/1
    assert (llama.tokens_per_s, llama.ratio_to_best_peer) == (4.0, 1.0)  # of 1, 1/2, 1
    assert (ct2.tokens_per_s, ct2.ratio_to_best_peer) == (2.0, 0.5)  # of 1/2, 1, 1/2


def test_without_a_peer_there_is_no_ratio() -> None:
    (figure,) = figures(measured(Scripted(OURS, [1.0], []), rounds=1))
    assert figure.ratio_to_best_peer is None


def test_an_engine_that_dies_is_reported_and_the_others_go_on() -> None:
    failures: list[tuple[Entry, Exception]] = []
    speeds = measured(Scripted(OURS, [1.0] * 3, []), Scripted(LLAMA, [1.0], []), rounds=3, failures=failures)
    assert {entry: len(values) for entry, values in speeds.items()} == {OURS: 3}
    assert [(entry, str(error)) for entry, error in failures] == [(LLAMA, "its process ended with exit code -9")]


def test_an_engine_that_makes_fewer_tokens_than_the_others_has_no_figure() -> None:
    failures: list[tuple[Entry, Exception]] = []
    speeds = measured(Scripted(OURS, [1.0], []), Scripted(CT2, [0.1], [], made=3), rounds=1, failures=failures)
    assert list(speeds) == [OURS]
    ((entry, error),) = failures
    assert entry == CT2
    assert isinstance(error, WrongTokens)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"batch": 3}, {"prompt_len": 6}])
def test_prompts_repeat_for_a_seed_and_share_no_beginning_with_others(changes: dict[str, int]) -> None:
    task = Task(batch=2, prompt_len=5, new_tokens=1)
    other = Task(**{"batch": 2, "prompt_len": 5, "new_tokens": 1, **changes})
    assert task.prompts(50257) == task.prompts(50257)
    assert {ids[0] for ids in task.prompts(50257)}.isdisjoint(ids[0] for ids in other.prompts(50257))
    assert all(0 <= i < 256 for ids in task.prompts(257) for i in ids)
