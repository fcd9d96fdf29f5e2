"""Alternating rounds: in each one every engine in turn does the same task while the others sleep.

A machine's speed changes from minute to minute, an engine's share of it less so: the figure to trust is the
median over rounds of the ratio to that round's best peer.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from model_service.bench.children import ChildFailed, Outcome
from model_service.bench.contestants import OURS, Entry
from model_service.bench.task import Task

SETTLE_S = 0.3  # threads of the last engine spin up to 200 ms before they sleep


class Runs(Protocol):
    """An engine that does tasks."""

    @property
    def entry(self) -> Entry:
        """What it is."""
        ...

    def run(self, task: Task) -> Outcome:
        """Do a task."""
        ...


class WrongTokens(Exception):
    """An engine made fewer or more tokens than it was asked for: its figure would say nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One engine in all rounds: tokens per second, and the ratio to the best peer (None without a peer)."""

    entry: Entry
    tokens_per_s: float
    ratio_to_best_peer: float | None
    rounds: tuple[float, ...]


def alternate(
    workers: Seq[Runs],
    task: Task,
    rounds: int,
    *,
    tokens: Callable[[Task], int],
    done: Callable[[Runs, int], None] = lambda worker, number: None,
    failed: Callable[[Runs, Exception], None],
    settle_s: float = SETTLE_S,
) -> dict[Entry, list[float]]:
    """Return tokens per second of each engine in each round; one that fails is reported and left out.

    Every round has its own prompts and begins with another engine. tokens: what a task counts for.
    """
    speeds: dict[Entry, list[float]] = {worker.entry: [] for worker in workers}
    running = list(workers)
    for number in range(rounds):
        this = Task(task.batch, task.prompt_len, task.new_tokens, task.seed + 1 + number)
        first = number % max(1, len(running))
        for worker in running[first:] + running[:first]:
            time.sleep(settle_s)
            try:
                outcome = worker.run(this)
                _check(this, outcome)
            except (ChildFailed, WrongTokens) as error:
                failed(worker, error)
                running.remove(worker)
                del speeds[worker.entry]
                continue
            speeds[worker.entry].append(tokens(this) / outcome.seconds)
            done(worker, number)
    return speeds


def _check(task: Task, outcome: Outcome) -> None:
    lengths = [len(ids) for ids in outcome.token_ids]
    if lengths != [task.new_tokens] * task.batch:
        raise WrongTokens(f"made {lengths[:4]}... tokens for {task.batch} prompts instead of {task.new_tokens} each")


def figures(speeds: Mapping[Entry, Seq[float]]) -> list[Figure]:
    """Return the medians, and the medians of each round's ratio to that round's best peer.

    The peers are all engines but ours; the best of them stands at 1.0 if it is the best in most rounds.
    """
    peers = [values for entry, values in speeds.items() if entry.engine != OURS]
    best = [max(values) for values in zip(*peers, strict=True)]
    return [
        Figure(
            entry,
            statistics.median(values),
            statistics.median(v / b for v, b in zip(values, best, strict=True)) if best else None,
            tuple(values),
        )
        for entry, values in speeds.items()
    ]
