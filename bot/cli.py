"""The command line `punchline`. Each command imports what it needs, so `--help` answers at once.

What needs torch is handed to `python -m model_service …`: this process never loads it.
"""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bot.config import Settings, load_settings
from model_service import lifeline, logs
from model_service.config import settings_or_exit

app = typer.Typer(
    name="punchline",
    help="A Discord bot whose sense of humour its community trains. All of it runs on this machine.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would show the values of variables
)

Verbose = Annotated[bool, typer.Option("--verbose", help="Log at DEBUG, which shows people's text.")]
MAX_ID = 2**63 - 1  # what Discord numbers servers by
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def run(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the whole log of both processes here.")] = False,
) -> None:
    """Run the service and the bot; without a token, the playground too."""
    settings = settings_or_exit(load_settings)
    _need_torch()
    from bot.run import run as run_until_stopped

    raise SystemExit(asyncio.run(run_until_stopped(settings, verbose=verbose)))


@app.command()
def bot(
    playground: Annotated[str | None, typer.Option(help="Address of a playground, instead of Discord.")] = None,
    verbose: Verbose = False,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run the bot alone; the service must run too, or it says that the model is offline."""
    settings = settings_or_exit(load_settings)
    logs.configure(verbose=verbose)
    if with_parent:
        lifeline.end_with_parent()
    if settings.discord_token is None:
        _refuse("There is no token. Set DISCORD_TOKEN, or use `punchline run` to try the bot in the playground.")
    _run_bot(settings, playground)


@app.command()
def serve(verbose: Verbose = False) -> None:
    """Run the model service alone."""
    settings_or_exit(load_settings)
    _hand_over("serve", *(["--verbose"] if verbose else []))


@app.command()
def ask(
    text: Annotated[str, typer.Argument(help='What to continue, or "tell me a joke", or "a joke about cats".')],
    model: Annotated[str | None, typer.Option(help="Model to ask; default: the bot's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer; default: the bot's.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the same one gives the same answer.")] = None,
) -> None:
    """Ask the model from the terminal, without Discord."""
    settings = settings_or_exit(load_settings)
    from bot.ask import Question, answer

    raise SystemExit(asyncio.run(answer(settings, Question(text, model, max_tokens, seed))))


@app.command()
def doctor() -> None:
    """Check token, intents, service, models, disk and permissions; say what to do about each problem."""
    settings = settings_or_exit(load_settings)
    from bot.doctor import examine

    raise SystemExit(asyncio.run(examine(settings)))


@app.command(context_settings=PASSED_ON, add_help_option=False)
def plan(context: typer.Context) -> None:
    """Show which layers of which model go on which device, and why; `--simulate 10GiB,10GiB` for others."""
    simulated = any(argument.partition("=")[0] in ("--simulate", "--help") for argument in context.args)
    _hand_over("plan", *context.args, needs_torch=not simulated)


@app.command(context_settings=PASSED_ON, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Turn weights that are pickles (.bin) into safetensors: `convert SOURCE TARGET`, from a folder or hub id."""
    _hand_over("convert", *context.args)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="CSV, TSV, JSONL or Parquet, also .gz; or hf:owner/name.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column with the jokes; given twice, both are joined. Default: the obvious one."),
    ] = None,
    guild: Annotated[
        int | None, typer.Option(help="Server they are for; default: global, for the owner's model.", min=1, max=MAX_ID)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the jokes, like CC0-1.0; default: as the source says.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, show a few, write nothing.")] = False,
    encoding: Annotated[str | None, typer.Option(help="Encoding of a text file; default: UTF-8.")] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out lines of another encoding.")] = False,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The first line is a joke; columns are 1, 2, 3.")
    ] = False,
    no_quotes: Annotated[
        bool, typer.Option("--no-quotes", help="Quotation marks in a CSV or TSV are parts of the texts.")
    ] = False,
    split: Annotated[str, typer.Option(help="Which part of a data set of the hub.")] = "train",
    subset: Annotated[
        str | None, typer.Option(help="Which subset of a data set of the hub, where it has some.")
    ] = None,
) -> None:
    """Import jokes from a file or a data set of the hub; also while the bot runs."""
    settings = settings_or_exit(load_settings, make_home=not dry_run)
    from bot.importing_command import Request, import_jokes
    from bot.importing_records import TextOptions

    text = TextOptions(encoding, skip_broken, has_header=not no_header, has_quotes=not no_quotes)
    request = Request(source, tuple(column or ()), guild, licence, dry_run, text, split, subset)
    raise SystemExit(import_jokes(settings, request))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="JSONL or CSV to write, also .gz.", dir_okay=False)],
    guild: Annotated[
        int | None, typer.Option(help="Server whose jokes; default: the global ones.", min=1, max=MAX_ID)
    ] = None,
) -> None:
    """Export a server's jokes, or the global ones, to a file that import reads."""
    settings = settings_or_exit(load_settings, make_home=False)
    from bot.exporting import export_jokes

    raise SystemExit(export_jokes(settings, file, guild))


@app.command(context_settings=PASSED_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train one of the embedded models from nothing: `train joke` or `train sentiment`."""
    _hand_over("train", *context.args)


@app.command(context_settings=PASSED_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure the engine beside its peers: `bench decode`, `prefill`, `serve`, `quality`, `all` and more."""
    _hand_over("bench", *context.args)


def _run_bot(settings: Settings, playground: str | None) -> None:
    import aiohttp
    import discord

    from bot.app import run_bot

    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # there is no voice to warn about
    try:
        asyncio.run(run_bot(settings, playground))
    except discord.LoginFailure:
        _refuse(
            "Discord refused the token. Copy it again: https://discord.com/developers/applications, "
            "your application, Bot, Reset Token."
        )
    except (aiohttp.ClientConnectionError, discord.DiscordServerError, TimeoutError) as error:
        sys.stderr.write(f"Discord cannot be reached: {error}. Check the network.\n")
        raise SystemExit(1) from None


def _hand_over(*args: str, needs_torch: bool = True) -> NoReturn:
    """Become `python -m model_service …`, so that signals and the exit code are that process's own."""
    if needs_torch:
        _need_torch()
    sys.stdout.flush()
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISCORD_TOKEN")}
    os.execve(sys.executable, (sys.executable, "-P", "-m", "model_service", *args), env)


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        _refuse("The model service is not installed here. Install it: pip install 'punchline[service]'")


def _refuse(sentence: str) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    raise SystemExit(2)


def main() -> None:
    """Run the command that was typed."""
    app(prog_name="punchline")
