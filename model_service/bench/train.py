"""`bench train`: training on jokes, packed, beside the usual loop, from the same jokes in steps of as many.

    usual    transformers' Trainer: FP32, a joke a row, padded to the longest of its batch, all tokens scored
    packed   our loop: several jokes a row, only what is learned from is scored; in FP32, in what `auto`
             chooses, and with an adapter, as jobs do it by default

What counts is tokens of jokes per second: those that are learned from, no padding. Each has a process of its own;
in each round all train on the same jokes, beginning in turn. Nothing is downloaded: the weights are random, the
jokes are those beside the checkout, or the starter pack.
"""

import csv
import gzip
import json
import random
import statistics
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model_service.bench.children import ChildFailed, Worker
from model_service.bench.contestants import Entry
from model_service.bench.models import BenchModel, open_model
from model_service.bench.report import Report, result
from model_service.bench.session import Session
from model_service.bench.task import Task

ROOT = Path(__file__).parents[2]
JOKES_TRAIN = ROOT.parent / "shared" / "data" / "jokes_train.csv.gz"  # beside a checkout; not part of the project
STARTER = ROOT / "bot" / "store" / "starter_jokes.jsonl"
USUAL, PACKED, CHOSEN, ADAPTER = (
    Entry("transformers", "full float32"),
    Entry("punchline", "full float32"),
    Entry("punchline", "full auto"),
    Entry("punchline", "lora auto"),
)
JOKES, STEPS = 8, 10  # in a step, in a round
LITERATURE = 119  # jokes a second: GPT-2 XL in FP16 on a GPU
COLUMNS = ("engine", "weights", "tokens/s", "jokes/s", "ratio", "peak memory")


@dataclass(frozen=True, slots=True)
class Trained:
    """One contestant in all rounds. ratios: to the usual loop in the same round."""

    entry: Entry
    weights: str
    tokens_per_s: float
    jokes_per_s: float
    ratio: float
    peak_bytes: int


def measure(source: str, jokes_per_step: int, steps: int, rounds: int, session: Session) -> Report:
    """Measure one model, named as `bench decode` takes it. Raises ChildFailed."""
    machine = session.machine()
    entries = (USUAL, PACKED, CHOSEN, ADAPTER)
    with session.bar(rounds * len(entries)) as bar, ExitStack() as stack:
        bar.now(f"{source}: weights")
        model = open_model(source, session.cache, session.log)
        workers = []
        for entry in entries:
            bar.now(f"{source}: {entry} loads")
            worker = _start(entry, model, session)
            if worker is None:
                continue
            stack.callback(worker.close)
            worker.prepare(Task(jokes_per_step, 1, 1))
            workers.append(worker)
        found: dict[Entry, list[list[int]]] = {worker.entry: [] for worker in workers}
        for number in range(rounds):
            first = number % len(workers)
            for worker in workers[first:] + workers[:first]:
                bar.now(f"{source}, round {number + 1} of {rounds}: {worker.entry}")
                outcome = worker.run(Task(jokes_per_step, 1, steps, seed=1 + number))
                found[worker.entry].append(outcome.token_ids[0])
                bar.step()
        weights = {worker.entry: worker.ready.weights for worker in workers}
    trained = figures(found, weights, jokes_per_step * steps)
    return _report(model.name, trained, jokes_per_step, rounds, f"Machine: {machine.line}.")


def _start(entry: Entry, model: BenchModel, session: Session) -> Worker | None:
    """Start a contestant; none if it would be one that is there already, or cannot run."""
    from model_service.bench.run_training import load  # imports nothing heavy before it is called

    try:
        worker = Worker(entry, partial(load, entry, model.folder, session.device, jokes_path()), session.log)
    except ChildFailed as error:
        session.fail(f"{entry} is left out: {error}")
        return None
    if entry == CHOSEN and worker.ready.weights == PACKED.weights:  # the same again
        worker.close()
        return None
    return worker


def figures(found: Mapping[Entry, Seq[Seq[int]]], weights: Mapping[Entry, str], jokes: int) -> list[Trained]:
    """Return the medians. found: of each round the tokens, microseconds and the peak of bytes."""
    speeds = {entry: [tokens / micros * 1e6 for tokens, micros, _ in rounds] for entry, rounds in found.items()}
    usual = speeds.get(USUAL, [])
    return [
        Trained(
            entry,
            weights[entry],
            statistics.median(speeds[entry]),
            statistics.median(jokes / micros * 1e6 for _, micros, _ in rounds),
            statistics.median(a / b for a, b in zip(speeds[entry], usual, strict=True)) if usual else 0.0,
            max(peak for *_, peak in rounds),
        )
        for entry, rounds in found.items()
    ]


def shares(trained: Seq[Trained]) -> dict[str, float]:
    """Return what each step gives on top of the one before: packing, the format (1 where it is FP32), the adapter."""
    ratios = {each.entry: each.ratio for each in trained}
    packed = ratios.get(PACKED, 0.0)
    chosen = ratios.get(CHOSEN, packed)
    return {
        "packing": packed,
        "precision": chosen / packed if packed else 1.0,
        "adapter": ratios.get(ADAPTER, chosen) / chosen if chosen else 1.0,
    }


def jokes_path() -> Path:
    """Return the jokes beside this checkout, else the starter pack."""
    return JOKES_TRAIN if JOKES_TRAIN.exists() else STARTER


def read_jokes(path: Path, count: int, seed: int) -> list[str]:
    """Draw so many jokes; the seed decides which. A short file gives some of them twice."""
    if path.name.endswith(".csv.gz"):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            jokes = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    else:
        jokes = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line]
    return random.Random(seed).choices(jokes, k=count)


def _report(name: str, trained: Seq[Trained], batch: int, rounds: int, machine: str) -> Report:
    found = shares(trained)
    rows, objects = [], []
    for each in trained:
        numbers = (f"{each.tokens_per_s:,.0f}", f"{each.jokes_per_s:,.1f}", f"{each.ratio:.2f} ×")
        rows.append((each.entry.engine, each.weights, *numbers, f"{each.peak_bytes / 2**30:.1f} GiB"))
        more = {"jokes_per_s": round(each.jokes_per_s, 2), "peak_bytes": each.peak_bytes}
        objects.append(result(each.entry.engine, name, each.weights, batch, each.tokens_per_s, each.ratio, **more))
    objects += [{"model": name, **{f"share_of_{what}": round(share, 3) for what, share in found.items()}}]
    title = (
        f"{name}, steps of {batch} jokes: tokens of jokes learned from per second, packed beside transformers' Trainer"
        f" (FP32, a joke a row, padded); medians of {rounds} alternating rounds, and of each round's ratios."
    )
    share = (
        f"Packed rows, scored only where something is learned, give {found['packing']:.2f} ×,"
        f" the number format on top of it {found['precision']:.2f} ×,"
        f" and an adapter instead of all weights {found['adapter']:.2f} × more."
    )
    beside = f"The literature's GPT-2 XL in FP16 on a GPU: {LITERATURE} jokes/s. Jokes: {jokes_path().name}."
    return Report("train", title, COLUMNS, rows, objects, (share, beside, machine))
