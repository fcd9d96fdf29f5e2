"""`bench all`: the measurements of docs/performance.md, in the order of its sections."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

from model_service.bench import (
    adapters,
    beside_training,
    gaps,
    growth,
    pipeline,
    profile,
    quality,
    serve,
    throughput,
    train,
)
from model_service.bench.contestants import ENGINES
from model_service.bench.report import Report
from model_service.bench.session import Session
from model_service.bench.texts import default_texts
from model_service.bench.throughput import Plan

NAMES = ("decode", "prefill", "quality", "growth", "gaps", "adapters", "serve", "train", "yield", "pipeline", "profile")
STREAMS = 64


def _beside_peers(name: str, models: Seq[str], batches: tuple[int, ...], rounds: int, session: Session) -> Report:
    """Measure models one by one into one table; the slowest peer, transformers, beside the first of them only."""
    reports = []
    for model in models:
        engines = ENGINES if model == models[0] else tuple(engine for engine in ENGINES if engine != "transformers")
        reports.append(throughput.measure(Plan(name, (model,), batches, engines, rounds), session))
    rows = [row for report in reports for row in report.rows]
    return replace(reports[0], rows=rows, objects=[found for report in reports for found in report.objects])


def measurements(models: Seq[str], rounds: int) -> dict[str, Callable[[Session], Report]]:
    """Return what is measured, by name. Growth and serving take the first model; quality takes trained weights."""
    return {
        "decode": lambda session: _beside_peers("decode", models, (1, 8, 32), rounds, session),
        "prefill": lambda session: _beside_peers("prefill", models, (1,), rounds, session),
        "quality": lambda session: quality.measure("jokes-mini", default_texts(), None, session),
        "growth": lambda session: growth.measure(models[0], growth.BATCHES, growth.CONTEXTS, session),
        "gaps": lambda session: gaps.measure(models, session),
        "adapters": lambda session: adapters.measure(models[0], rounds, session),
        "serve": lambda session: serve.measure(models[0], STREAMS, rounds, session),
        "train": lambda session: train.measure(models[0], train.JOKES, train.STEPS, rounds, session),
        "yield": lambda session: beside_training.measure(16, rounds, session),
        "pipeline": lambda session: pipeline.measure(models[0], pipeline.IN_FLIGHT, 2, rounds, session),
        "profile": lambda session: profile.measure(models[0], session),
    }
