"""`bench decode` and `bench prefill`: tokens per second of every engine, in alternating rounds."""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from model_service.bench.children import ChildFailed, Worker
from model_service.bench.contestants import INSTALL, Entry, entries, missing
from model_service.bench.engines import load
from model_service.bench.machine import Machine
from model_service.bench.models import BenchModel, open_model
from model_service.bench.report import Report, result
from model_service.bench.rounds import Figure, Runs, alternate, figures
from model_service.bench.session import Bar, Session
from model_service.bench.task import Task

PROMPT_LEN, NEW_TOKENS, PREFILL_LEN = 16, 64, 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. kind: decode or prefill."""

    kind: str
    models: tuple[str, ...]
    batches: tuple[int, ...]
    engines: tuple[str, ...]
    rounds: int
    every_format: bool = False

    def task(self, model: BenchModel, batch: int) -> Task:
        """Return the task for a batch; a prompt that does not fit the model's context is cut to it."""
        if self.kind == "decode":
            return Task(batch, PROMPT_LEN, NEW_TOKENS)
        return Task(batch, min(PREFILL_LEN, model.context_len - 1), 1)

    def tokens(self, task: Task) -> int:
        """What a task counts for: new tokens, or those of the prompts."""
        return task.batch * (task.new_tokens if self.kind == "decode" else task.prompt_len)


Table = dict[tuple[str, Entry], dict[int, Figure]]  # by model and engine, then by batch


def measure(plan: Plan, session: Session) -> Report:
    """Measure a plan. What cannot run is named on stderr and left out."""
    machine = session.machine()
    wanted = _installed(plan, session)
    table: Table = {}
    per_token: dict[tuple[str, Entry], float] = {}
    with session.bar(len(plan.models) * len(plan.batches) * plan.rounds * max(1, len(wanted))) as bar:
        for source in plan.models:
            bar.now(f"{source}: weights")
            try:
                model = open_model(source, session.cache, session.log)
            except (ChildFailed, ValueError) as error:
                session.fail(f"{source} is left out: {error}")
                continue
            for batch, found in _measure_model(plan, model, wanted, session, bar).items():
                for figure in found:
                    table.setdefault((model.name, figure.entry), {})[batch] = figure
                    per_token[model.name, figure.entry] = bytes_per_token(model, figure.entry.weights)
    return _report(plan, table, per_token, machine)


def _installed(plan: Plan, session: Session) -> list[Entry]:
    """Return what can be measured; says once for each engine how to get what is missing."""
    there = []
    for engine in plan.engines:
        if lacking := missing(engine):
            session.say(f"{engine} is left out: {' and '.join(lacking)} not installed ({INSTALL})")
        else:
            there.append(engine)
    return entries(there, gpu=session.gpu, every=plan.every_format)


def _measure_model(
    plan: Plan, model: BenchModel, wanted: Seq[Entry], session: Session, bar: Bar
) -> dict[int, list[Figure]]:
    """Start every engine once, then measure batch after batch."""
    with ExitStack() as stack:
        workers = []
        for entry in wanted:
            bar.now(f"{model.name}: {entry} loads")
            try:
                worker = Worker(entry, partial(load, entry, model.path_for(entry), session.device), session.log)
            except ChildFailed as error:
                session.fail(f"{model.name}: {entry} is left out: {error}")
                continue
            stack.callback(worker.close)
            workers.append(worker)
        chosen = {w.entry: replace(w.entry, weights=w.ready.weights) for w in workers}  # what `auto` became
        found = {}
        for batch in plan.batches:
            measured = _measure_batch(plan, plan.task(model, batch), workers, model.name, session, bar)
            found[batch] = [replace(figure, entry=chosen[figure.entry]) for figure in measured]
        return found


def _measure_batch(plan: Plan, task: Task, workers: Seq[Worker], name: str, session: Session, bar: Bar) -> list[Figure]:
    ready = []
    for worker in workers:
        bar.now(f"{name}, batch {task.batch}: {worker.entry} warms up")
        try:
            worker.prepare(task)
            ready.append(worker)
        except ChildFailed as error:
            session.fail(f"{name}, batch {task.batch}: {worker.entry} is left out: {error}")

    def done(worker: Runs, number: int) -> None:
        bar.now(f"{name}, batch {task.batch}, round {number + 1} of {plan.rounds}")
        bar.step()

    def failed(worker: Runs, error: Exception) -> None:
        session.fail(f"{name}, batch {task.batch}: {worker.entry} is left out: {error}")

    return figures(alternate(ready, task, plan.rounds, tokens=plan.tokens, done=done, failed=failed))


def bytes_per_token(model: BenchModel, weights: str) -> float:
    """Return the bytes of matrices that a decode step must read: the layers' and the head's."""
    config = model.config
    per_weight = {"float32": 4, "F32": 4, "Q8_0": 34 / 32, "int8": 1}.get(weights.partition(" ")[0], 2)
    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    layer = width * 3 * width + width * width + 2 * width * inner
    return per_weight * float(config["n_layer"] * layer + config["vocab_size"] * width)


def _report(plan: Plan, table: Table, per_token: Mapping[tuple[str, Entry], float], machine: Machine) -> Report:
    shares = plan.kind == "decode" and 1 in plan.batches
    columns = ["model", "engine", "weights"]
    for batch in plan.batches:
        columns += [f"batch {batch}", "ratio"]
    columns += ["of the bandwidth"] if shares else []
    rows, objects = [], []
    for (model, entry), by_batch in table.items():
        row = [model, entry.engine, entry.weights]
        for batch in plan.batches:
            figure = by_batch.get(batch)
            row += ["–", "–"] if figure is None else [f"{figure.tokens_per_s:,.0f}", ratio(figure)]
        if shares:
            alone = by_batch.get(1)
            read = alone and alone.tokens_per_s * per_token[model, entry] / machine.gb_s / 1e9
            row.append("–" if read is None else f"{read:.0%}")
        rows.append(row)
    for (model, entry), by_batch in table.items():
        for batch, figure in by_batch.items():
            objects.append(
                result(entry.engine, model, entry.weights, batch, figure.tokens_per_s, figure.ratio_to_best_peer)
            )
    return Report(plan.kind, title(plan), tuple(columns), rows, objects, (f"Machine: {machine.line}.",))


def ratio(figure: Figure) -> str:
    """Return a ratio for people; in bold where it is ours."""
    if figure.ratio_to_best_peer is None:
        return "–"
    return f"{figure.ratio_to_best_peer:.2f} ×"


def title(plan: Plan) -> str:
    """Say what the numbers are."""
    what = (
        f"{NEW_TOKENS} new tokens after {PROMPT_LEN} of a prompt, greedy: new tokens per second over the whole call"
        if plan.kind == "decode"
        else f"Prompts of {PREFILL_LEN} tokens (or all the context there is): tokens read per second"
    )
    return f"{what}; medians of {plan.rounds} alternating rounds, and of the ratios to each round's best peer."
