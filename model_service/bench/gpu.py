"""Measures decoding on a GPU: `bench gpu`, one JSON object a line.

    {"measure": "copy", "gb_s": …}                              device to device, bytes read and written
    {"measure": "step", "batch": 1, "layers": "compiled", …}    a captured step, without the engine around it
    {"measure": "decode", "engine": "punchline", "batch": 1, "tokens_per_s": …, "ratios": {"float16": …}, …}

`decode` counts whole calls, prompts and all. The peers are transformers' `generate` with its dynamic cache (`float16`)
and its static one (`float16 static`), and `generate_batch` (`float16 continuous`). Each engine runs in a fresh process,
one after the other: a GPU's speed does not drift as a shared CPU's does, and its memory has room for one cache.
`share_of_copy_rate` is bytes of weights per second over the copy rate, with every weight read once a step.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_service.bench.children import ChildFailed, in_child
from model_service.bench.contestants import OURS, Entry, entries
from model_service.bench.models import BenchModel, open_model
from model_service.bench.session import Session, open_session
from model_service.bench.task import Task

BATCHES = (1, 64, 256)
PROMPT_LEN, NEW_TOKENS = 16, 128
MEASURED = (OURS, "transformers")
STEPS = 50


@dataclass(frozen=True, slots=True)
class Spent:
    """What an engine took for each round of a task, and the most GPU memory that torch held."""

    seconds: list[float]
    peak_bytes: int


def main(source: str, batches: tuple[int, ...] = BATCHES, rounds: int = 5, cache: Path | None = None) -> int:
    """Print the lines; returns the exit code: 2 without a GPU, 1 if something could not be measured."""
    with open_session("auto", cache) as session:
        if not session.gpu:
            session.say("There is no CUDA device here, and bench gpu measures nothing else; try bench decode.")
            return 2
        try:
            for line in measure(source, session, batches, rounds):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        except ChildFailed as error:
            session.fail(f"{source}: {error}")
        return 1 if session.failures else 0


def measure(source: str, session: Session, batches: tuple[int, ...] = BATCHES, rounds: int = 5) -> Iterator[str]:
    """Yield the lines. An engine that fails is named on stderr and left out; the session's device must be a GPU."""
    model = open_model(source, session.cache, session.log)
    copy_gb_s = in_child(session.log, "bandwidth.copy_gb_s")
    yield json.dumps({"measure": "copy", "gb_s": round(copy_gb_s, 1)})
    for batch in batches:
        yield from _step_lines(model, batch, session, copy_gb_s)
        task = Task(batch, PROMPT_LEN, NEW_TOKENS)
        yield from _lines(model, task, _contest(model, task, rounds, session), copy_gb_s)


def _step_lines(model: BenchModel, batch: int, session: Session, copy_gb_s: float) -> Iterator[str]:
    for step in in_child(session.log, "gpu.steps", model.folder, session.device, batch):
        if error := step.get("error"):
            session.fail(f"a step of {batch} with {step['layers']} layers: {error}")
            continue
        share = step["weight_bytes"] / step["median_ms"] / 1e6 / copy_gb_s
        yield json.dumps({"measure": "step", "model": model.name, **step, "share_of_copy_rate": round(share, 3)})


def _contest(model: BenchModel, task: Task, rounds: int, session: Session) -> dict[Entry, Spent]:
    """Let each engine do the task; those that cannot are reported."""
    spent: dict[Entry, Spent] = {}
    for entry in entries(MEASURED, gpu=True):
        try:
            spent[entry] = in_child(
                session.log, "gpu.contest", entry, model.path_for(entry), session.device, task, rounds
            )
        except ChildFailed as error:
            session.fail(f"{entry}, batch {task.batch}: {error}")
    return spent


def _lines(model: BenchModel, task: Task, spent: dict[Entry, Spent], copy_gb_s: float) -> Iterator[str]:
    weight_bytes = decode_bytes(model.config, itemsize=2)
    for entry, taken in spent.items():
        speed = task.batch * task.new_tokens / statistics.median(taken.seconds)
        yield json.dumps(
            {
                "measure": "decode",
                "engine": entry.engine,
                "model": model.name,
                "weights": entry.weights,
                "batch": task.batch,
                "tokens_per_s": round(speed, 1),
                "ratios": ratios(spent, entry),
                "share_of_copy_rate": round(weight_bytes * speed / task.batch / 1e9 / copy_gb_s, 3),
                "peak_gb": round(taken.peak_bytes / 1e9, 2),
                "rounds_s": [round(s, 4) for s in taken.seconds],
            }
        )


def ratios(spent: dict[Entry, Spent], entry: Entry) -> dict[str, float]:
    """Return how many times the speed of each peer an engine has, by the peer's number format."""
    own = statistics.median(spent[entry].seconds)
    peers = {other.weights: taken for other, taken in spent.items() if other.engine != OURS}
    return {name: round(statistics.median(taken.seconds) / own, 2) for name, taken in peers.items()}


def decode_bytes(config: dict[str, Any], itemsize: int) -> int:
    """Return the bytes of weights that a decode step reads: all but the embedding's rows of other positions.

    The token embedding is read as the head. GPT-2 XL in FP16: 3.11 GB.
    """
    embd, inner = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    matrices = 4 * embd * embd + 2 * embd * inner
    vectors = 4 * embd + inner + embd + 4 * embd  # the linears' biases, and two norms
    return int(itemsize * (config["n_layer"] * (matrices + vectors) + config["vocab_size"] * embd + 2 * embd))


# --- in a child process ---------------------------------------------------------------------------------------------


def contest(entry: Entry, path: Path, device: str, task: Task, rounds: int) -> Spent:
    """Load an engine, let it warm up, and time it; each round has its own prompts."""
    from model_service.bench.engines import load

    contestant = load(entry, path, device)
    contestant.prepare(task)
    for _ in range(2):  # what is compiled on the way may be compiled anew for the second
        contestant.run(task)
    seconds = []
    for number in range(rounds):
        this = Task(task.batch, task.prompt_len, task.new_tokens, seed=1 + number)
        began = time.perf_counter()
        made = contestant.run(this)  # ends with the tokens on the host
        seconds.append(time.perf_counter() - began)
        assert [len(ids) for ids in made] == [task.new_tokens] * task.batch, "it made another number of tokens"
    return Spent(seconds, _peak_bytes())


def _peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def steps(
    folder: Path, device: str, batch: int, layers: tuple[str, ...] = ("plain", "compiled")
) -> list[dict[str, Any]]:
    """Return the median time of a captured step of `batch` sequences, by how its layers are made."""
    from model_service.engine.forward import TorchForward
    from model_service.engine.gpu import compiled_parts, use_exact_sums
    from model_service.engine.graph_runner import GraphRunner
    from model_service.engine.graphs import CudaGraphs, EagerGraphs
    from model_service.models.loading import read_checkpoint

    use_exact_sums()
    checkpoint = read_checkpoint(str(folder), device=device)
    model = checkpoint.model
    graphs = CudaGraphs(model.device) if model.device.type == "cuda" else EagerGraphs()
    runner = GraphRunner(TorchForward(model, batch), graphs)
    weight_bytes = decode_bytes(dict(checkpoint.opened.config), model.dtype.itemsize)
    found: list[dict[str, Any]] = []
    for name in layers:
        try:
            runner.use_parts(batch, model.parts if name == "plain" else compiled_parts(model.parts))
        except Exception as error:  # compilers fail in their own ways, and the other measurement stands
            found.append({"batch": batch, "layers": name, "error": str(error).splitlines()[0]})
            continue
        median_ms = _step_ms(runner, batch)
        found.append({"batch": batch, "layers": name, "median_ms": median_ms, "weight_bytes": weight_bytes})
    return found


def _step_ms(runner: Any, batch: int) -> float:
    """Run steps of sequences that only go on, as between joins and ends; each ends with its tokens on the host."""
    from model_service.engine.scheduler import Chunk
    from model_service.engine.sequence import SamplingParams, Sequence

    params = SamplingParams(max_tokens=STEPS, temperature=0)
    sequences = [Sequence(i, [i % 256, 1], params, seed=i) for i in range(batch)]
    for slot, sequence in enumerate(sequences):
        sequence.slot = slot
    runner.step([Chunk(s, 0, 1) for s in sequences])
    times = []
    for position in range(1, 1 + STEPS):
        began = time.perf_counter()
        results = runner.step([Chunk(s, position, position + 1) for s in sequences])
        times.append(time.perf_counter() - began)
        for result in results:
            result.sequence.token_ids.append(result.token_id)
    return round(statistics.median(times) * 1e3, 4)
