"""`bench growth`: what a token costs as the context grows and the batch with it, in this engine alone."""

import asyncio
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING

from model_service.bench.arrivals import Arrival, Watched, drain, step_s
from model_service.bench.children import ChildFailed, in_child
from model_service.bench.models import open_model
from model_service.bench.report import Report, result
from model_service.bench.run_punchline import open_engine, submit
from model_service.bench.session import Session
from model_service.bench.task import Task

if TYPE_CHECKING:
    from model_service.engine.engine import Engine

PROMPT_LEN = 16
GROWTH_LIMIT_S = 1800.0
WINDOW = 16  # tokens over which a step's time is taken
BATCHES = (1, 4, 16, 64)
CONTEXTS = (64, 128, 256, 512, 1024)


def measure(source: str, batches: Seq[int], contexts: Seq[int], session: Session) -> Report:
    """Let `batch` answers grow from a short prompt to the longest context, and time the steps on the way."""
    machine = session.machine()
    model = open_model(source, session.cache, session.log)
    contexts = [c for c in contexts if PROMPT_LEN + WINDOW < c <= model.context_len] or [model.context_len]
    rows, objects = [], []
    with session.bar(len(batches)) as bar:
        for batch in batches:
            bar.now(f"{model.name}, batch {batch}")
            try:
                weights, steps = in_child(
                    session.log, "growth.step_times", model.folder, session.device, batch, tuple(contexts)
                )
            except ChildFailed as error:
                session.fail(f"{model.name}, batch {batch} is left out: {error}")
                continue
            bar.step()
            rows.append([model.name, weights, str(batch), *(f"{step / batch * 1e3:.2f}" for step in steps)])
            for context, step in zip(contexts, steps, strict=True):
                more = {"context": context, "ms_per_token": round(step / batch * 1e3, 4)}
                objects.append(result("punchline", model.name, weights, batch, batch / step, None, **more))
    columns = ("model", "weights", "batch", *(f"at {context}" for context in contexts))
    title = f"Milliseconds per token, by the context it follows (mean of the {WINDOW} steps before)."
    return Report("growth", title, columns, rows, objects, (f"Machine: {machine.line}.",))


def step_times(folder: Path, device: str, batch: int, contexts: tuple[int, ...]) -> tuple[str, list[float]]:
    """Return the number format, and the seconds of a step at each context. Runs in a child process."""
    engine = open_engine(folder, "auto", device, batch)
    times = asyncio.run(_grow(engine, Task(batch, PROMPT_LEN, max(contexts) - PROMPT_LEN)))
    return engine.weights, [step_s(times, context - PROMPT_LEN, WINDOW) for context in contexts]


async def _grow(engine: "Engine", task: Task) -> list[Arrival]:
    watched, *others = submit(engine, task)
    async with asyncio.TaskGroup() as group:
        for stream in others:
            group.create_task(drain(stream))
        async with Watched(watched) as seen:
            await seen.until(task.new_tokens, GROWTH_LIMIT_S)
    await engine.close()
    return seen.times
