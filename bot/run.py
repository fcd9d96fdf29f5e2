"""`punchline run`: the service, the bot and, without a token, the playground, in one command.

    punchline run ──┬── python -m model_service serve      (never sees the token)
      playground    └── python -m bot bot [--playground URL]

The playground lives in this process, so a page stays open while the bot restarts.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, nullcontext

from rich.console import Console

from bot.config import Settings
from bot.connection import address, listening, until_ready
from bot.playground import Playground, PlaygroundError
from bot.processes import ChildLog, Keeper, Limits, Program, keep_running

TOKEN_VARIABLES = ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE")
SLOW_START_S = 30.0


async def run(settings: Settings, *, verbose: bool = False, limits: Limits | None = None) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP; returns the exit code."""
    out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True, highlight=False)
    stop, kill = asyncio.Event(), asyncio.Event()
    _on_signals(stop, kill)
    if await listening(settings):
        err.print(f"A model service already runs: it answers at {address(settings)}. Stop it first.", markup=False)
        return 1
    try:
        async with AsyncExitStack() as stack:
            playground = None
            if settings.discord_token is None:
                playground = await stack.enter_async_context(Playground(settings.playground.port))
            programs = [service_program(os.environ), bot_program(os.environ, playground)]
            keepers = [keeper(program, settings, err, limits, all_lines=verbose) for program in programs]
            announcing = asyncio.create_task(_announce(settings, playground, out, err), name="announce")
            try:
                return await keep_running(keepers, stop, kill)
            finally:
                announcing.cancel()
                await asyncio.wait([announcing])
    except PlaygroundError as error:
        err.print(str(error), markup=False)
        return 1


def service_program(environ: Mapping[str, str]) -> Program:
    """The model service, in an environment without the token."""
    env = {name: value for name, value in environ.items() if name not in TOKEN_VARIABLES}
    return Program("model service", (sys.executable, "-P", "-m", "model_service", "serve", "--with-parent"), env)


def bot_program(environ: Mapping[str, str], playground: Playground | None) -> Program:
    """The bot, with its own token, or with the playground's address and token."""
    argv: tuple[str, ...] = (sys.executable, "-P", "-m", "bot", "bot", "--with-parent")
    env = dict(environ)
    if playground is not None:
        argv = (*argv, "--playground", playground.base_url)
        env = {name: value for name, value in env.items() if name not in TOKEN_VARIABLES}
        env["DISCORD_TOKEN"] = playground.bot_token
    return Program("bot", argv, env)


def keeper(
    program: Program, settings: Settings, err: Console, limits: Limits | None = None, *, all_lines: bool = False
) -> Keeper:
    """Prepare to keep a program running: its log goes to `<home>/logs/`, what matters of it to `err` too."""

    def show(line: str) -> None:
        err.print(f"[{program.name}] {line}", markup=False)

    def tell(line: str) -> None:
        err.print(line, markup=False)

    path = settings.home / "logs" / f"{program.name.split()[-1]}.log"
    return Keeper(program, ChildLog(path, show, all_lines=all_lines), tell, limits or Limits())


def _on_signals(stop: asyncio.Event, kill: asyncio.Event) -> None:
    """The first signal stops everything in order, the second at once."""

    def received() -> None:
        (kill if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, received)


async def _announce(settings: Settings, playground: Playground | None, out: Console, err: Console) -> None:
    """Wait until every start-up model answers and the bot listens, then say in one line where to go."""
    where = (
        f"the playground is at {playground.base_url}"
        if playground
        else "the models answer, and the bot goes to Discord"
    )
    with err.status("Starting the models ...") if err.is_terminal else nullcontext():
        ready = asyncio.create_task(_until_all_ready(settings, playground), name="all-ready")
        try:
            if not (await asyncio.wait([ready], timeout=SLOW_START_S))[0]:
                err.print(f"Not every model answers yet ({settings.home}/logs/ says why), but {where}.", markup=False)
            await ready
        finally:
            ready.cancel()
    out.print(f"Punchline is ready: {where} (Ctrl-C stops it)", markup=False)


async def _until_all_ready(settings: Settings, playground: Playground | None) -> None:
    await until_ready(settings)
    while playground is not None and not playground.bot_online:  # noqa: ASYNC110 - moments, once
        await asyncio.sleep(0.05)
