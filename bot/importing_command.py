"""`punchline import`: a source into the collection, with a progress bar, counts, and a sentence for what is wrong.

It may run beside the bot: both write in short transactions to the same SQLite file (`bot.store.database`).
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bot import importing_words as words
from bot.ask import printable
from bot.config import Settings
from bot.errors import BotError
from bot.importing import Plan, Tally, run
from bot.importing_columns import choose
from bot.importing_hub import PREFIX, HubRows, open_hub
from bot.importing_records import BROKEN_QUOTES, BadColumn, BadSource, TextOptions
from bot.importing_sources import Source, open_file
from bot.store import Store, StoreFailed
from bot.store.bulk import GLOBAL, Bulk

SAMPLE_WIDTH = 110


class Stopped(BotError):
    """Somebody pressed Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was typed. `guild` None: global."""

    source: str
    columns: tuple[str, ...] = ()
    guild: int | None = None
    licence: str | None = None
    dry_run: bool = False
    text: TextOptions = field(default_factory=TextOptions)
    split: str = "train"
    subset: str | None = None


def import_jokes(settings: Settings, request: Request) -> int:
    """Import, and print how it went; returns the exit code: 0 done, 1 failed, 2 the column must be named,
    130 stopped."""
    tally = Tally()
    try:
        with _opened(request) as source:
            plan = _plan(source, request)
            try:
                asyncio.run(_import(settings, source, plan, tally))
            finally:
                if tally.read:
                    _print(words.report(source.name, plan.columns, tally, dry_run=plan.dry_run))
    except (Stopped, KeyboardInterrupt):
        sys.stderr.write(f"Stopped.{_left(tally, request)}\n")
        return 130
    except StoreFailed as error:
        left = _left(tally, request) or " Nothing was imported."
        sys.stderr.write(f"The collection at {settings.home} cannot be used: {error.reason}.{left}\n")
        return 1
    except BotError as error:
        sys.stderr.write(f"{printable(str(error))}{_left(tally, request)}\n")
        return 2 if isinstance(error, BadColumn) else 1
    if not tally.is_useful:
        sys.stderr.write("Not one row was a joke, so nothing was imported. Is it the right column?\n")
        return 1
    _print_end(plan, tally)
    return 0


@contextlib.contextmanager
def _opened(request: Request) -> Iterator[Source]:
    if request.source.startswith(PREFIX):
        console = Console(stderr=True)
        with contextlib.ExitStack() as stack:
            with console.status(f"opening {request.source}") if console.is_terminal else contextlib.nullcontext():
                rows = stack.enter_context(open_hub(request.source, request.split, request.subset))
            yield rows
    elif "://" in request.source:
        raise BadSource("I read no addresses. Download the file first, then import it from the disk.")
    else:
        yield open_file(Path(request.source), request.text)


def _plan(source: Source, request: Request) -> Plan:
    stated = source.licence if isinstance(source, HubRows) else None
    return Plan(
        columns=choose(source.name, source.columns, request.columns),
        guild_id=GLOBAL if request.guild is None else request.guild,
        fallback_licence=stated or f"not stated ({source.name})",
        licence=(request.licence or "").strip() or None,
        dry_run=request.dry_run,
    )


async def _import(settings: Settings, source: Source, plan: Plan, tally: Tally) -> None:
    """Import; Ctrl-C stops it after the batch it is at, so that what is counted is what is kept."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopping.set)
    async with _collection(settings, plan) as collection:
        with _progress(source, tally) as show:

            def told() -> None:
                show()
                if stopping.is_set():
                    raise Stopped

            try:
                await run(source, plan, collection, tally, told=told)
            except BadSource as error:
                if stopping.is_set():  # the terminal's Ctrl-C ends the process that reads the hub, too
                    raise Stopped from error
                raise


@contextlib.asynccontextmanager
async def _collection(settings: Settings, plan: Plan) -> AsyncIterator[Bulk | None]:
    """The collection; for a dry run None where there is none yet, so that none is made."""
    path = settings.home / "punchline.db"
    if plan.dry_run and not path.exists():
        yield None
        return
    async with await Store.open(path, settings.training.discord_permission) as store:
        yield store.bulk


@contextlib.contextmanager
def _progress(source: Source, tally: Tally) -> Iterator[Callable[[], None]]:
    """Show a bar while the block runs, where somebody sees it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as p:
        task = p.add_task("importing", total=source.total)

        def told() -> None:
            p.update(task, completed=tally.read, description=f"{words.rows(tally.read)}, {tally.new:,} new")

        yield told


def _left(tally: Tally, request: Request) -> str:
    """Say what an import that ended early has left behind."""
    if not tally.read or request.dry_run:
        return ""
    return f" The {tally.new:,} new jokes above are kept. Run it again to go on: it skips what is here."


def _print(lines: list[str]) -> None:
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def _print_end(plan: Plan, tally: Tally) -> None:
    if tally.rejected[BROKEN_QUOTES]:
        _print(["If all quotation marks are parts of the texts, --no-quotes takes them as they are."])
    if plan.dry_run:
        _print(["For example:"] if tally.samples else [])
        _print([f"  {_one_line(sample)}" for sample in tally.samples])
        return
    if tally.new:
        _print([words.whose(plan.guild_id)])
    if tally.new and plan.licence is None:
        _print([f"Rows that name no licence are kept as “{plan.fallback_licence}”; --licence names another."])


def _one_line(text: str) -> str:
    line = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return line if len(line) <= SAMPLE_WIDTH else line[: SAMPLE_WIDTH - 1] + "…"
