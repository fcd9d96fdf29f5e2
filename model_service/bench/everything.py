"""`bench all`: the measurements of docs/performance.md, in the order of its sections."""

from collections.abc import Callable
from collections.abc import Sequence as Seq

from model_service.bench import adapters, gaps, growth, profile, quality, serve, throughput
from model_service.bench.contestants import ENGINES
from model_service.bench.report import Report
from model_service.bench.session import Session
from model_service.bench.texts import default_texts
from model_service.bench.throughput import Plan

NAMES = ("decode", "prefill", "quality", "growth", "gaps", "adapters", "serve", "profile")
STREAMS = 64


def measurements(models: Seq[str], rounds: int) -> dict[str, Callable[[Session], Report]]:
    """Return what is measured, by name. Growth and serving take the first model; quality takes trained weights."""
    decode = Plan("decode", tuple(models), (1, 8, 32), ENGINES, rounds)
    prefill = Plan("prefill", tuple(models), (1,), ENGINES, rounds)
    return {
        "decode": lambda session: throughput.measure(decode, session),
        "prefill": lambda session: throughput.measure(prefill, session),
        "quality": lambda session: quality.measure("jokes-mini", default_texts(), None, session),
        "growth": lambda session: growth.measure(models[0], growth.BATCHES, growth.CONTEXTS, session),
        "gaps": lambda session: gaps.measure(models, session),
        "adapters": lambda session: adapters.measure(models[0], rounds, session),
        "serve": lambda session: serve.measure(models[0], STREAMS, rounds, session),
        "profile": lambda session: profile.measure(models[0], session),
    }
