"""`bench gaps`: how long a running stream stands still while a long prompt is read, and how fast a slot is freed."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_service.bench.arrivals import Watched, drain, percentile
from model_service.bench.children import ChildFailed, in_child
from model_service.bench.models import open_model
from model_service.bench.report import Report, result
from model_service.bench.run_punchline import open_engine, submit
from model_service.bench.session import Session
from model_service.bench.task import Task

if TYPE_CHECKING:
    from model_service.engine.engine import Engine

LONG_PROMPT = 1000
SHORT_PROMPT = 16
QUIET_TOKENS = 64  # of a stream that runs alone, for the median step
LONG_PROMPTS = 8
CANCELS = 20


@dataclass(frozen=True, slots=True)
class Gaps:
    """Seconds. busy: gaps of a stream while a prompt was read beside it; read: how long each such prompt took."""

    weights: str
    prompt_len: int
    quiet: list[float]
    busy: list[float]
    read: list[float]
    cancel: list[float]  # from leaving a full engine to the first token of the one who waited


def measure(sources: Seq[str], session: Session) -> Report:
    """Measure each model."""
    machine = session.machine()
    rows, objects = [], []
    with session.bar(len(sources)) as bar:
        for source in sources:
            bar.now(source)
            try:
                model = open_model(source, session.cache, session.log)
                gaps: Gaps = in_child(session.log, "gaps.watch", model.folder, session.device, model.context_len)
            except (ChildFailed, ValueError) as error:
                session.fail(f"{source} is left out: {error}")
                continue
            bar.step()
            found = figures(gaps)
            rows.append(
                [
                    model.name,
                    gaps.weights,
                    f"{gaps.prompt_len:,}",
                    *(f"{found[k]:.1f}" for k in ("step_ms", "p99_gap_ms")),
                    f"{found['p99_gap_over_step']:.2f} ×",
                    *(f"{found[k]:.1f}" for k in ("prompt_ms", "cancel_ms")),
                    f"{found['cancel_over_step']:.2f} ×",
                ]
            )
            objects.append(result("punchline", model.name, gaps.weights, 1, None, None, **found))
    columns = (
        *("model", "weights", "prompt", "median step ms", "p99 gap ms", "ratio"),
        *("prompt read in ms", "cancel to next one's token ms", "in steps"),
    )
    title = (
        "The gap between two tokens of a running stream while a long prompt is read beside it (99th percentile), "
        "against the median step; and the time from a cancel in a full engine to the first token of who waited."
    )
    return Report("gaps", title, columns, rows, objects, (f"Machine: {machine.line}.",))


def figures(gaps: Gaps) -> dict[str, float]:
    """Return the medians and the 99th percentile, in ms, and the ratios to the median step."""
    step, p99, cancel = statistics.median(gaps.quiet), percentile(gaps.busy, 0.99), statistics.median(gaps.cancel)
    values = {
        "step_ms": step * 1e3,
        "p99_gap_ms": p99 * 1e3,
        "p99_gap_over_step": p99 / step,
        "prompt_tokens": gaps.prompt_len,
        "prompt_ms": statistics.median(gaps.read) * 1e3,
        "cancel_ms": cancel * 1e3,
        "cancel_over_step": cancel / step,
    }
    return {name: round(value, 3) for name, value in values.items()}


def watch(folder: Path, device: str, context_len: int) -> Gaps:
    """Measure one model. Runs in a child process."""
    prompt_len = min(LONG_PROMPT, context_len - 1)
    engine = open_engine(folder, "auto", device, 2)
    quiet, busy, read = asyncio.run(_gaps(engine, context_len, prompt_len))
    alone = open_engine(folder, "auto", device, 1)
    return Gaps(engine.weights, prompt_len, quiet, busy, read, asyncio.run(_cancels(alone, context_len)))


async def _gaps(engine: "Engine", context_len: int, prompt_len: int) -> tuple[list[float], list[float], list[float]]:
    quiet: list[float] = []
    busy: list[float] = []
    read = []
    for number in range(LONG_PROMPTS):
        (stream,) = submit(engine, Task(1, SHORT_PROMPT, context_len - SHORT_PROMPT, seed=number))
        async with Watched(stream) as seen:
            await seen.until(QUIET_TOKENS)
            began = time.perf_counter()
            await drain(submit(engine, Task(1, prompt_len, 1, seed=number))[0])
            ended = time.perf_counter()
            await seen.until(seen.count + 1)  # the token after the prompt closes its last gap
        pairs = list(itertools.pairwise(at for _, at in seen.times))
        quiet += [b - a for a, b in pairs if b < began][1:]
        busy += [b - a for a, b in pairs if b >= began and a <= ended]
        read.append(ended - began)
    await engine.close()
    return quiet, busy, read


async def _cancels(engine: "Engine", context_len: int) -> list[float]:
    """Leave the only slot and time the first token of a prompt that waits for it."""
    times = []
    for number in range(CANCELS):
        (running,) = submit(engine, Task(1, SHORT_PROMPT, context_len - SHORT_PROMPT, seed=2 * number))
        async with Watched(running) as seen:
            await seen.until(1)
            (waiting,) = submit(engine, Task(1, 1, 1, seed=2 * number + 1))
            await seen.until(seen.count + 1)
            began = time.perf_counter()
            running.close()
            await drain(waiting)
            times.append(time.perf_counter() - began)
    await engine.close()
    return times
