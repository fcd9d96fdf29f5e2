"""The command line of the bench: `python -m model_service bench …`. Nothing heavy is imported before it is needed."""

import signal
import sys
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_service.bench.contestants import ENGINES

if TYPE_CHECKING:
    from model_service.bench.report import Report
    from model_service.bench.session import Session

app = typer.Typer(no_args_is_help=True, help="Measure this engine beside others on this machine.")

MODELS = ("gpt2", "gpt2-medium")
BATCHES = (1, 8, 32)

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, jokes-mini, a folder, a hub id."),
]
OneModel = Annotated[str, typer.Option("--model", help="A model, as for `bench decode`.")]
Batches = Annotated[list[str] | None, typer.Option("--batch", help="Sequences at once, as in `--batch 1,8`.")]
Engines = Annotated[list[str] | None, typer.Option("--engines", help=f"Which of {', '.join(ENGINES)}.")]
Rounds = Annotated[int, typer.Option(help="Alternating rounds.", min=1)]
AllFormats = Annotated[bool, typer.Option("--all-formats", help="Every number format, not only the fast ones.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of the table.")]
Cache = Annotated[
    Path | None, typer.Option(help="Keep converted weights in this folder for the next time.", file_okay=False)
]
Device = Annotated[str, typer.Option(help="cpu or cuda:0; auto: the GPU if there is one.")]


@app.command()
def decode(
    model: Models = None,
    batch: Batches = None,
    engines: Engines = None,
    rounds: Rounds = 5,
    all_formats: AllFormats = False,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """New tokens per second at batch 1, 8 and 32, beside llama.cpp, CTranslate2 and transformers."""
    from model_service.bench.throughput import Plan, measure

    models, batches = split(model) or MODELS, numbers(batch, "--batch") or BATCHES
    plan = Plan("decode", models, batches, chosen_engines(engines), rounds, all_formats)
    _run([lambda session: measure(plan, session)], device, cache, as_json)


@app.command()
def prefill(
    model: Models = None,
    batch: Batches = None,
    engines: Engines = None,
    rounds: Rounds = 5,
    all_formats: AllFormats = False,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Prompt tokens read per second, for prompts of 512, beside the same engines."""
    from model_service.bench.throughput import Plan, measure

    models, batches = split(model) or MODELS, numbers(batch, "--batch") or (1,)
    plan = Plan("prefill", models, batches, chosen_engines(engines), rounds, all_formats)
    _run([lambda session: measure(plan, session)], device, cache, as_json)


@app.command()
def serve(
    model: OneModel = "gpt2",
    streams: Annotated[int, typer.Option(help="Streams at once.", min=1)] = 64,
    rounds: Rounds = 5,
    requests: Annotated[
        int | None, typer.Option(help="Send so many short requests and watch the memory instead.", min=10)
    ] = None,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Streams over the socket against the same engine without it, and what the service adds to the first token."""
    from model_service.bench import serve, serve_memory

    if requests is None:
        _run([lambda session: serve.measure(model, streams, rounds, session)], device, cache, as_json)
    else:
        _run([lambda session: serve_memory.measure(model, streams, requests, session)], device, cache, as_json)


@app.command()
def quality(
    model: Annotated[str, typer.Option(help="A model, as for `bench decode`, or gpt-j-small.")] = "jokes-mini",
    texts: Annotated[
        Path | None, typer.Option(help="Texts to measure on: a line each, or JSONL.", exists=True, dir_okay=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many texts.", min=1)] = None,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """What each number format costs in quality, and whether batch mates change an answer."""
    from model_service.bench.quality import measure
    from model_service.bench.texts import default_texts

    _run([lambda session: measure(model, texts or default_texts(), limit, session)], device, cache, as_json)


@app.command()
def growth(
    model: OneModel = "gpt2",
    batch: Batches = None,
    context: Annotated[list[str] | None, typer.Option("--context", help="Contexts to time: `64,1024`.")] = None,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """What a token costs at contexts of 64 to 1,024, at batch 1 to 64."""
    from model_service.bench.growth import BATCHES, CONTEXTS, measure

    batches, contexts = numbers(batch, "--batch") or BATCHES, numbers(context, "--context") or CONTEXTS
    _run([lambda session: measure(model, batches, contexts, session)], device, cache, as_json)


@app.command()
def gaps(model: Models = None, as_json: AsJson = False, cache: Cache = None, device: Device = "auto") -> None:
    """How long a stream waits while a long prompt is read, and how soon a cancelled one's slot is free."""
    from model_service.bench.gaps import measure

    _run([lambda session: measure(split(model) or MODELS, session)], device, cache, as_json)


@app.command()
def adapters(
    model: OneModel = "gpt2", rounds: Rounds = 5, as_json: AsJson = False, cache: Cache = None, device: Device = "auto"
) -> None:
    """What LoRA adapters cost when every sequence of a batch of 8 may have its own."""
    from model_service.bench.adapters import measure

    _run([lambda session: measure(model, rounds, session)], device, cache, as_json)


@app.command()
def pipeline(
    model: OneModel = "gpt2",
    in_flight: Annotated[list[str] | None, typer.Option("--in-flight", help="Sequences at once: `8,128`.")] = None,
    stages: Annotated[int, typer.Option(help="Parts of the model, each with a core of its own.", min=2)] = 2,
    rounds: Rounds = 5,
    as_json: AsJson = False,
    cache: Cache = None,
) -> None:
    """A model split over several devices with all of them at work, beside the usual split with one at a time."""
    from model_service.bench.pipeline import IN_FLIGHT, measure

    numbers_in_flight = numbers(in_flight, "--in-flight") or IN_FLIGHT
    _run([lambda session: measure(model, numbers_in_flight, stages, rounds, session)], "cpu", cache, as_json)


@app.command()
def train(
    model: OneModel = "gpt2",
    jokes: Annotated[int, typer.Option(help="Jokes in a step.", min=1)] = 8,
    steps: Annotated[int, typer.Option(help="Steps in a round.", min=1)] = 10,
    rounds: Annotated[int, typer.Option(help="Alternating rounds.", min=1)] = 3,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Training on packed jokes beside transformers' Trainer: tokens of jokes per second, and peak memory."""
    from model_service.bench.train import measure

    _run([lambda session: measure(model, jokes, steps, rounds, session)], device, cache, as_json)


@app.command("yield")
def beside_training(
    streams: Annotated[int, typer.Option(help="Streams at once.", min=1)] = 16,
    rounds: Rounds = 3,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """How much of its speed the service keeps while a training run is at work on the same machine."""
    from model_service.bench.beside_training import measure

    _run([lambda session: measure(streams, rounds, session)], device, cache, as_json)


@app.command()
def profile(model: OneModel = "gpt2", as_json: AsJson = False, cache: Cache = None) -> None:
    """Where the time of a step goes, phase by phase, with int8 weights on the CPU."""
    from model_service.bench.profile import measure

    _run([lambda session: measure(model, session)], "cpu", cache, as_json)


@app.command()
def gpu(model: OneModel = "gpt2-xl", batch: Batches = None, rounds: Rounds = 5, cache: Cache = None) -> None:
    """Decoding on a GPU beside transformers, and the share of its copy rate; JSON lines."""
    from model_service.bench.gpu import BATCHES, main

    raise SystemExit(main(model, numbers(batch, "--batch") or BATCHES, rounds, cache))


@app.command("all")
def everything(
    write: Annotated[bool, typer.Option("--write", help="Write the tables into the document.")] = False,
    document: Annotated[Path, typer.Option(help="The document.", dir_okay=False)] = Path("docs/performance.md"),
    only: Annotated[list[str] | None, typer.Option(help="Some of them: `decode,prefill`.")] = None,
    model: Models = None,
    rounds: Rounds = 5,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """All of these, one after the other; `--write` renews docs/performance.md, each table when it is measured."""
    from model_service.bench.document import NoDocument, check, write_tables
    from model_service.bench.everything import NAMES, measurements

    names = split(only) or NAMES
    if unknown := set(names) - set(NAMES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}.", param_hint="--only")
    try:
        if write:
            check(document, names)
        chosen = measurements(split(model) or MODELS, rounds)
        keep = (lambda report: write_tables(document, [report])) if write else None
        reports = _run([chosen[name] for name in names], device, cache, as_json=False, stop=False, keep=keep)
    except NoDocument as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    if len(reports) < len(names):
        raise SystemExit(1)


def chosen_engines(names: list[str] | None) -> tuple[str, ...]:
    """Return the engines that were named, with commas or one by one; all of them by default."""
    chosen = split(names) or ENGINES
    for name in chosen:
        if name not in ENGINES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(ENGINES)}.", param_hint="'--engines'")
    return chosen


def split(values: list[str] | None) -> tuple[str, ...]:
    """Return what an option that may be repeated was given; commas part values too."""
    return tuple(part.strip() for value in values or [] for part in value.split(",") if part.strip())


def numbers(values: list[str] | None, option: str) -> tuple[int, ...]:
    """Return an option's values as whole numbers of at least 1."""
    parts = split(values)
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            raise typer.BadParameter(f"{part!r} is not a whole number of at least 1.", param_hint=f"'{option}'")
    return tuple(int(part) for part in parts)


def _run(
    measurements: "Seq[Callable[[Session], Report]]",
    device: str,
    cache: Path | None,
    as_json: bool,
    *,
    stop: bool = True,
    keep: "Callable[[Report], None] | None" = None,
) -> "list[Report]":
    """Measure and print, one after the other, and `keep` each at once: what comes later may be stopped.

    Exits with 1 if something could not be measured, unless `stop` is off.
    """
    from model_service.bench.children import ChildFailed
    from model_service.bench.report import show
    from model_service.bench.session import open_session

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # clean up, as after Ctrl-C
    reports = []
    with open_session(device, cache) as session:
        for measure in measurements:
            try:
                report = measure(session)
            except (ChildFailed, ValueError) as error:
                session.fail(f"{error}")
                continue
            if report.rows:
                reports.append(report)
                with session.aside():
                    show(report, as_json=as_json)
                if keep:
                    keep(report)
    if not reports:
        session.fail("Nothing could be measured.")
    if session.failures and stop:
        raise SystemExit(1)
    return reports
