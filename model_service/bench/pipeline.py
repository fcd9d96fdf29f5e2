"""`bench pipeline`: a model split over devices, all of them at work, beside the usual split with one at a time.

Devices are processes with a core each. The usual way ("naive") takes all sequences as one batch from stage to stage,
one core at work; ours is the same engine with its micro-batches. Both take the same prompts in turn, on the same
stages; where the engine finds that one batch is faster, both are the same and what is measured of both is one figure.
"""

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_service.bench.children import in_child
from model_service.bench.models import open_model
from model_service.bench.report import Report
from model_service.bench.session import Session
from model_service.bench.task import Task

if TYPE_CHECKING:
    from model_service.engine.engine import Engine
    from model_service.engine.flights import Flights
    from model_service.engine.micro_batches import MicroBatches

IN_FLIGHT = (8, 32, 64, 128)
PROMPT_LEN = 16
NEW_TOKENS = 64
TIMED = 9  # passes, to find out what a layer takes
WARM_UP = 2  # rounds in which the engine finds out what is faster


@dataclass(frozen=True, slots=True)
class Found:
    """One number of sequences in flight. same: share of sequences whose tokens were the same both ways."""

    in_flight: int
    naive: float  # tokens per second
    pipelined: float
    micro_batches: int
    same: float
    layers: tuple[range, ...]

    @property
    def ratio(self) -> float:
        """How much faster ours is."""
        return self.pipelined / self.naive


def measure(source: str, in_flight: Seq[int], num_stages: int, rounds: int, session: Session) -> Report:
    """Measure for each number of sequences in flight, in a process of its own."""
    machine = session.machine()
    model = open_model(source, session.cache, session.log)
    founds = []
    with session.bar(len(in_flight)) as bar:
        for number in in_flight:
            bar.now(f"{model.name}, {number} in flight")
            layer_s, head_s = in_child(session.log, "pipeline.times", model.folder, math.ceil(number / num_stages))
            layers = even(model.config["n_layer"], num_stages, layer_s, head_s)
            founds.append(in_child(session.log, "pipeline.compared", model.folder, number, layers, rounds))
            bar.step()
    rows = [_row(model.name, found) for found in founds]
    objects = [
        {
            "naive_tokens_per_s": round(f.naive, 2),
            "pipelined_tokens_per_s": round(f.pipelined, 2),
            "ratio": round(f.ratio, 3),
            "in_flight": f.in_flight,
        }
        for f in founds
    ]
    columns = (
        "model",
        "in flight",
        "layers",
        "naive, tokens/s",
        "ours, tokens/s",
        "ratio",
        "micro-batches",
        "same answers",
    )
    title = f"A model on {num_stages} stages of a core each, float32: all of them at work beside one at a time."
    task = f"{PROMPT_LEN} prompt tokens and {NEW_TOKENS} new ones, greedily; medians of {rounds} alternating rounds."
    return Report("pipeline", title, columns, rows, objects, (task, f"Machine: {machine.line}."))


def _row(name: str, found: Found) -> list[str]:
    speeds = [f"{found.naive:.1f}", f"{found.pipelined:.1f}", f"{found.ratio:.2f}"]
    layers = ", ".join(f"{stage.start}-{stage[-1]}" for stage in found.layers)
    return [name, str(found.in_flight), layers, *speeds, str(found.micro_batches), f"{found.same:.0%}"]


def compared(folder: Path, in_flight: int, layers: list[range], rounds: int) -> Found:
    """Measure both ways in turn. Runs in a child process, which must not keep the stages' cores busy."""
    from model_service.engine.micro_batches import MicroBatches
    from model_service.engine.stage_process import share_cores, split_over_processes
    from model_service.engine.stage_wire import Part

    num_stages = len(layers)
    parts = [
        Part(str(folder), part, "float32", in_flight, cores)
        for part, cores in zip(layers, share_cores(num_stages), strict=True)
    ]
    stages = split_over_processes(parts)
    learned, same = MicroBatches(num_stages), []
    speeds: dict[bool, list[float]] = {True: [], False: []}
    try:
        for number in range(WARM_UP + rounds):
            answers = {}
            for ours in ((True, False), (False, True))[number % 2]:
                choice = learned if ours else MicroBatches(1)
                task = Task(in_flight, PROMPT_LEN, NEW_TOKENS, seed=number)
                answers[ours], took_s = asyncio.run(_answers(folder, stages, choice, task))
                if number >= WARM_UP:
                    speeds[ours].append(in_flight * NEW_TOKENS / took_s)
            if number >= WARM_UP:
                same += [a == b for a, b in zip(answers[True], answers[False], strict=True)]
    finally:
        stages.close()
    micro_batches = learned.choose(in_flight)
    if micro_batches == 1:
        speeds[True] = speeds[False] = speeds[True] + speeds[False]
    medians = {ours: statistics.median(values) for ours, values in speeds.items()}
    return Found(in_flight, medians[False], medians[True], micro_batches, statistics.mean(same), tuple(layers))


async def _answers(
    folder: Path, stages: "Flights", choice: "MicroBatches", task: Task
) -> tuple[list[list[int]], float]:
    """Do a task; returns its tokens and how long it took."""
    from model_service.bench.run_punchline import submit, token_ids

    engine = _engine(folder, stages, choice, task.batch)
    began = time.perf_counter()
    answers = await asyncio.gather(*(token_ids(stream) for stream in submit(engine, task)))
    took_s = time.perf_counter() - began
    await engine.close()
    return answers, took_s


def _engine(folder: Path, stages: "Flights", choice: "MicroBatches", num_slots: int) -> "Engine":
    from model_service.engine.engine import Engine
    from model_service.engine.engine_config import EngineConfig
    from model_service.models.loading import open_checkpoint

    opened = open_checkpoint(str(folder))
    shape = opened.shape
    config = EngineConfig("bench", shape.n_positions, shape.vocab_size, opened.eos_token_id, max_num_seqs=num_slots)
    return Engine(config, _Kept(stages), opened.tokenizer, choice)


class _Kept:
    """Flights that outlive the engine which closes them: stages that are measured again."""

    def __init__(self, flights: "Flights") -> None:
        self.num_stages = flights.num_stages
        self.submit, self.collect, self.move, self.clear = flights.submit, flights.collect, flights.move, flights.clear
        self.read_adapter = flights.read_adapter

    def close(self) -> None:
        """Stay."""


def even(n_layer: int, num_stages: int, layer_s: float, head_s: float) -> list[range]:
    """Divide the layers so that the slowest stage is as fast as can be, by what a layer and the head take here."""
    cuts = itertools.combinations(range(1, n_layer), num_stages - 1)
    bounds = min(((0, *cut, n_layer) for cut in cuts), key=lambda bounds: slowest(bounds, layer_s, head_s))
    return [range(start, end) for start, end in itertools.pairwise(bounds)]


def slowest(bounds: Seq[int], layer_s: float, head_s: float) -> float:
    """Return the seconds of the slowest stage; bounds: where the stages begin, and the last one ends."""
    *others, last = (layer_s * (end - start) for start, end in itertools.pairwise(bounds))
    return max(*others, last + head_s)


def times(folder: Path, rows: int) -> tuple[float, float]:
    """Return the seconds of a layer, and of norm, head and drawing, for so many sequences on one core."""
    import torch

    from model_service.engine.forward import TorchForward
    from model_service.engine.runner import ModelRunner
    from model_service.engine.scheduler import Chunk
    from model_service.engine.sequence import SamplingParams, Sequence
    from model_service.models.loading import open_checkpoint

    torch.set_num_threads(1)
    opened = open_checkpoint(str(folder))
    length = PROMPT_LEN + NEW_TOKENS // 2
    chunks = []
    for slot in range(rows):
        sequence = Sequence(slot, [slot] * length, SamplingParams(temperature=0), seed=0)
        sequence.slot = slot
        chunks.append(Chunk(sequence, length - 1, length))
    first, last = (
        TorchForward(opened.read(layers=layers, to_run=True), rows)
        for layers in (range(1), range(opened.shape.n_layer - 1, opened.shape.n_layer))
    )
    runner, taken = ModelRunner(last), []
    with torch.inference_mode():
        for _ in range(TIMED):
            began = time.perf_counter()
            x = first.hidden(chunks)
            between = time.perf_counter()
            runner.draw(chunks, last.hidden(chunks, x))
            taken.append((between - began, time.perf_counter() - between))
    layer_s, with_head_s = (statistics.median(column) for column in zip(*taken, strict=True))
    return layer_s, max(0.0, with_head_s - layer_s)
