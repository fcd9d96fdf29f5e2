"""`punchline doctor`: looks at everything a running bot needs; a line each, and what to do about a problem.

Changes nothing, prints no token, and needs no torch. Every look outside has a limit.
"""

import asyncio
import importlib.metadata
import importlib.util
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.text import Text

from bot.config import Settings
from bot.connection import address, connect, listening
from bot.errors import BotError
from bot.service_client import Timeouts

DISCORD_API = "https://discord.com/api/v10"
PORTAL = "https://discord.com/developers/applications"
LOOK_LIMIT_S = 5.0
LEAST_FREE_BYTES = 2 * 10**9  # a fine-tune of GPT-2 small keeps weights and optimizer: 4 x 0.5 GB
MODEL_OPTIONS = ("joke_model", "complete_model", "sentiment_model")
MESSAGE_CONTENT_FLAGS = 1 << 18 | 1 << 19  # granted to a verified application, switched on for a small one


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what was seen, and, if that is a problem, what to do."""

    topic: str
    seen: str
    remedy: str = ""


async def examine(settings: Settings, discord_api: str = DISCORD_API) -> int:
    """Print all findings; returns 1 if one of them is a problem, else 0."""
    out = Console(soft_wrap=True, highlight=False)
    problems = 0
    async for finding in findings(settings, discord_api):
        problems += bool(finding.remedy)
        out.print(_line(finding))
    return 1 if problems else 0


async def findings(settings: Settings, discord_api: str = DISCORD_API) -> AsyncIterator[Finding]:
    """Look at one thing after the other."""
    yield python()
    yield home(settings.home)
    yield disk(settings.home)
    yield await asyncio.to_thread(database, settings.home / "punchline.db")
    async for finding in service(settings):
        yield finding
    async for finding in discord(settings, discord_api):
        yield finding


def python() -> Finding:
    """Versions of Python and torch; torch is only missed where no service is installed beside the bot."""
    seen = f"Python {sys.version.split()[0]}"
    if importlib.util.find_spec("torch") is None:
        return Finding("python", f"{seen}; torch is not installed here, so the service must run elsewhere")
    return Finding("python", f"{seen}, torch {importlib.metadata.version('torch')}")


def home(folder: Path) -> Finding:
    """The folder with everything people said: ours, writable, closed to others."""
    status = folder.stat()
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding("home", f"{folder} cannot be written by this user", f"chown it: sudo chown -R $USER {folder}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding("home", f"{folder} can be written by other users", f"close it: chmod go-w {folder}")
    return Finding("home", str(folder))


def disk(folder: Path) -> Finding:
    """Room for a fine-tune."""
    free = shutil.disk_usage(folder).free
    seen = f"{free / 1e9:.1f} GB free at {folder}"
    if free < LEAST_FREE_BYTES:
        return Finding("disk", seen, f"free some space: a fine-tune may need {LEAST_FREE_BYTES / 1e9:g} GB")
    return Finding("disk", seen)


def database(path: Path) -> Finding:
    """The jokes: readable and whole."""
    if not path.exists():
        return Finding("database", "none yet; the bot makes it when it first starts")
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOOK_LIMIT_S)
        try:
            verdict = str(connection.execute("PRAGMA quick_check").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as error:
        verdict = str(error)
    if verdict != "ok":
        return Finding("database", f"{path}: {verdict}", "stop the bot and put back a copy of this file")
    return Finding("database", f"{path}, {path.stat().st_size / 1e6:.1f} MB")


async def service(settings: Settings) -> AsyncIterator[Finding]:
    """The model service: somebody listens, only we may connect, and the models the bot asks for are there."""
    where = address(settings)
    if not await listening(settings):
        yield Finding("service", f"nothing answers at {where}", "start it: `make run`, or `punchline serve`")
        return
    if settings.service.host is None:
        yield socket(settings.socket_path)
    async with connect(settings, Timeouts(call_s=LOOK_LIMIT_S)) as client:
        try:
            cards, ready = await client.models(), await client.ready()
        except BotError as error:
            yield Finding("service", f"{where}: {error}", f"look into {settings.home}/logs/service.log")
            return
    if not ready:
        remedy = f"wait; if it stays so, look into {settings.home}/logs/service.log"
        waiting = [f"{card['id']} {card['state']}" for card in cards if card.get("state") in ("loading", "failed")]
        told = f": {', '.join(waiting)}" if waiting else ""
        yield Finding("service", f"{where} answers, but its models are not all ready{told}", remedy)
    else:
        yield Finding("service", f"ready at {where}")
    for finding in models(settings, cards):
        yield finding


def socket(path: Path) -> Finding:
    """Who may talk to the service: only its owner."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("socket", f"{path} has mode {mode:04o}, open to others", f"close it: chmod 600 {path}")
    return Finding("socket", f"{path} is open to its owner alone")


def models(settings: Settings, cards: list[dict[str, Any]]) -> list[Finding]:
    """Every model the bot asks for by default."""
    held = {str(card["id"]): card for card in cards}
    return [_model(option, getattr(settings.bot, option), held) for option in MODEL_OPTIONS]


def _model(option: str, name: str, held: dict[str, dict[str, Any]]) -> Finding:
    """One model; it need not be loaded, as long as it can be."""
    if name not in held:
        there = ", ".join(held) or "none"
        remedy = f"set bot.{option} to one of: {there}; or add it under [[service.models]]"
        return Finding("model", f"{name} ({option}) is not held by the service", remedy)
    card = held[name]
    state = str(card.get("state") or "ready")
    if state == "failed":
        why = card.get("error") or card.get("why") or "the service does not say why"
        return Finding("model", f"{name} ({option}) could not be loaded: {why}", "look into logs/service.log")
    return Finding("model", f"{name} ({option}): {'not loaded; it loads when asked' if state == 'unloaded' else state}")


async def discord(settings: Settings, api: str) -> AsyncIterator[Finding]:
    """The token, and whether Discord hands the bot what people type."""
    if settings.discord_token is None:
        yield Finding("token", "none; `punchline run` opens the playground instead of Discord")
        return
    headers = {
        "Authorization": f"Bot {settings.discord_token.get_secret_value()}",
        "User-Agent": "DiscordBot (punchline)",
    }
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LOOK_LIMIT_S)) as session,
            session.get(f"{api}/applications/@me", headers=headers) as response,
        ):
            status, application = response.status, await response.json() if response.ok else {}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        yield Finding("token", f"Discord cannot be reached ({type(error).__name__})", "check the network and any proxy")
        return
    if status == 401:
        yield Finding("token", "Discord refuses it", f"copy it again: {PORTAL}, your application, Bot, Reset Token")
    elif status != 200:
        yield Finding("token", f"Discord answered with status {status}", "try again in a minute")
    else:
        yield Finding("token", f"belongs to {application.get('name', 'an application')}")
        yield intents(int(application.get("flags", 0)))


def intents(flags: int) -> Finding:
    """The message-content intent; without it only slash commands, mentions and direct messages work."""
    if flags & MESSAGE_CONTENT_FLAGS:
        return Finding("intents", "message content is on")
    seen = "message content is off: slash commands, mentions and direct messages work, typed commands do not"
    return Finding("intents", seen, f"switch it on: {PORTAL}, your application, Bot, Message Content Intent")


def _line(finding: Finding) -> Text:
    mark = Text("problem", "bold red") if finding.remedy else Text("ok     ", "green")
    remedy = f". What to do: {finding.remedy}" if finding.remedy else ""
    return Text.assemble(mark, f"  {finding.topic:<9} {finding.seen}{remedy}")
