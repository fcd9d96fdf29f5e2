"""The command line of the bench: `python -m model_service bench …`. Nothing heavy is imported before it is needed."""

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
OneModel = Annotated[str, typer.Option("--model", help="A model as `bench decode` takes it.")]
Batches = Annotated[list[int] | None, typer.Option("--batch", help="Sequences at once; may be repeated.", min=1)]
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
    _throughput("decode", model, batch or list(BATCHES), engines, rounds, all_formats, as_json, cache, device)


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
    _throughput("prefill", model, batch or [1], engines, rounds, all_formats, as_json, cache, device)


@app.command()
def growth(
    model: OneModel = "gpt2",
    batch: Batches = None,
    context: Annotated[list[int] | None, typer.Option("--context", help="Contexts to time; may be repeated.")] = None,
    as_json: AsJson = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """What a token costs at contexts of 64 to 1,024, at batch 1 to 64."""
    from model_service.bench.growth import BATCHES as GROWTH_BATCHES
    from model_service.bench.growth import CONTEXTS, measure
    from model_service.bench.session import open_session

    with open_session(device, cache) as session:
        report = measure(model, batch or GROWTH_BATCHES, context or CONTEXTS, session)
    _end(session, [report], as_json)


@app.command()
def gaps(model: Models = None, as_json: AsJson = False, cache: Cache = None, device: Device = "auto") -> None:
    """How long a stream waits while a long prompt is read, and how soon a cancelled one's slot is free."""
    from model_service.bench.gaps import measure
    from model_service.bench.session import open_session

    with open_session(device, cache) as session:
        report = measure(_split(model) or MODELS, session)
    _end(session, [report], as_json)


def _throughput(
    kind: str,
    models: list[str] | None,
    batches: list[int],
    engines: list[str] | None,
    rounds: int,
    all_formats: bool,
    as_json: bool,
    cache: Path | None,
    device: str,
) -> None:
    from model_service.bench.session import open_session
    from model_service.bench.throughput import Plan, measure

    plan = Plan(kind, _split(models) or MODELS, tuple(batches), chosen_engines(engines), rounds, all_formats)
    with open_session(device, cache) as session:
        report = measure(plan, session)
    _end(session, [report], as_json)


def chosen_engines(names: list[str] | None) -> tuple[str, ...]:
    """Return the engines that were named, with commas or one by one; all of them by default."""
    chosen = _split(names) or ENGINES
    for name in chosen:
        if name not in ENGINES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(ENGINES)}.", param_hint="'--engines'")
    return chosen


def _split(values: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or [] for part in value.split(",") if part.strip())


def _end(session: "Session", reports: "Seq[Report]", as_json: bool) -> None:
    """Print what was found; exit with 1 if something could not be measured."""
    from model_service.bench.report import show

    for report in reports:
        if report.rows:
            show(report, as_json=as_json)
    if not any(report.rows for report in reports):
        session.fail("Nothing could be measured.")
    if session.failures:
        raise SystemExit(1)
