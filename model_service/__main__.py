"""The service's command line: `python -m model_service serve`, `… train joke|sentiment` and `… bench decode`.

What needs torch is imported by the command that needs it, so `--help` and a bad setting answer at once.
"""

import asyncio
import json
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_service import lifeline, logs
from model_service.bench.cli import app as bench
from model_service.config import load_settings, settings_or_exit

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
train = typer.Typer(no_args_is_help=True, help="Train one of the embedded models from nothing.")
app.add_typer(train, name="train")
app.add_typer(bench, name="bench")

Verbose = Annotated[bool, typer.Option("--verbose", help="Log at DEBUG, which shows people's text.")]
Data = Annotated[Path, typer.Option(help="Folder with the training texts.", exists=True, file_okay=False)]
Out = Annotated[Path, typer.Option(help="Folder of the run: checkpoints, and the model in model/.", file_okay=False)]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the training step: faster, needs a C++ compiler.")]
Seed = Annotated[int | None, typer.Option(help="Seed; the same one gives the same model.")]


@app.callback()
def _about() -> None:
    """The model service of Punchline: holds the weights, answers over a socket, trains."""


@app.command()
def serve(
    verbose: Verbose = False,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Serve the models until SIGTERM or Ctrl-C."""
    settings = settings_or_exit(load_settings)
    logs.configure(verbose=verbose)
    if with_parent:
        lifeline.end_with_parent()
    from model_service.server import serve as serve_until_stopped  # loads torch

    asyncio.run(serve_until_stopped(settings))


@app.command()
def plan(
    simulate: Annotated[
        str | None, typer.Option(help="Plan for devices that are not there: 10GiB,10GiB,10GiB or 4GB,cpu:16GB.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Plan these: of the settings, or gpt2, gpt2-xl, gpt-j-6b and so on; with commas.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show which layers of which model go on which device, with bytes, and why."""
    settings = settings_or_exit(load_settings, make_home=False)
    from model_service.held_models import needed_models, tuned_models
    from model_service.placement.plan_command import Request, run

    configured = (*needed_models(settings), *tuned_models(settings.home / "models"))
    raise SystemExit(run(settings, configured, Request(simulate, models, as_json)))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub id with pytorch_model.bin.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="New folder for the safetensors.", show_default=False)],
) -> None:
    """Turn weights that are pickles into safetensors, in a process that can run nothing of what is in them."""
    from model_service.convert import convert_or_exit

    convert_or_exit(source, target)


@app.command()
def health() -> None:
    """Exit with 0 if every start-up model of the running service answers, else with 1."""
    settings = settings_or_exit(load_settings)
    from model_service.probe import ready

    raise SystemExit(0 if asyncio.run(ready(settings)) else 1)


@train.command("joke")
def train_joke(
    data: Data,
    out: Out,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", min=1)] = None,
    seed: Seed = None,
    compile: Compile = False,
) -> None:
    """Train jokes-mini; a run that was stopped goes on from its last checkpoint."""
    logs.configure()
    from model_service.training.pretrain_jokes import PretrainConfig, Pretraining

    config = _configured(PretrainConfig, steps=steps, seed=seed)
    training = Pretraining(config, data, out, compile=compile)
    training.run()
    _report(training.export(out / "model"), out / "model")


@train.command("sentiment")
def train_sentiment(
    data: Data,
    out: Out,
    epochs: Annotated[int | None, typer.Option(help="Passes over the labelled texts.", min=1)] = None,
    seed: Seed = None,
    compile: Compile = False,
) -> None:
    """Train sentiment-mini."""
    logs.configure()
    from model_service.training.train_sentiment import SentimentConfig, SentimentTraining

    training = SentimentTraining(_configured(SentimentConfig, epochs=epochs, seed=seed), data, compile=compile)
    training.run()
    _report(training.export(out / "model"), out / "model")


def _configured(config_type: "type[DataclassInstance]", **given: Any) -> Any:
    """Build a config from the options that were given; the rest keeps its default."""
    known = {field.name for field in fields(config_type)}
    assert known >= given.keys(), f"{config_type.__name__} has no {given.keys() - known}"
    return config_type(**{name: value for name, value in given.items() if value is not None})


def _report(figures: dict[str, Any], folder: Path) -> None:
    """Print a run's figures, as JSON, for the model card."""
    log.info("model written to %s", folder)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def main() -> None:
    """Run the command that was typed."""
    app(prog_name="python -m model_service")


if __name__ == "__main__":
    main()
