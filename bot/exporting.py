"""`punchline export`: a server's jokes, or the global ones, as JSONL or CSV that `punchline import` reads.

A row has text, provenance and licence: no ids, no names. Importing an export changes nothing where it came from; in
another collection it brings the imports, under their licences, but not what people wrote: their consent stays theirs.
"""

import asyncio
import csv
import gzip
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import IO, Any, cast

from bot.config import Settings
from bot.errors import BadInput, BotError
from bot.store import Store
from bot.store.bulk import GLOBAL, Kept

FIELDS = ("text", "provenance", "licence")


def export_jokes(settings: Settings, target: Path, guild: int | None) -> int:
    """Write the file whole or not at all, and print how many jokes are in it; returns the exit code."""
    guild_id = GLOBAL if guild is None else guild
    try:
        count = asyncio.run(_export(settings, target, guild_id))
    except BotError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{target} cannot be written: {(error.strerror or str(error)).lower()}.\n")
        return 1
    jokes = "joke" if count == 1 else "jokes"
    what = f"global {jokes}" if guild is None else f"{jokes} of the server {guild}"
    sys.stdout.write(f"{count:,} {what} in {target}\n")
    return 0


async def _export(settings: Settings, target: Path, guild_id: int) -> int:
    write_rows = _writer(target)
    path = settings.home / "punchline.db"
    if not path.exists():
        raise BadInput(f"There is no collection at {path} yet, so there is nothing to export.")
    aside = target.with_name(f".{target.name}.part")
    async with await Store.open(path, settings.training.discord_permission) as store:
        try:
            with _opened(aside, packed=target.suffix == ".gz") as file:
                count = await write_rows(file, store.bulk.all(guild_id))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return count


def _opened(path: Path, *, packed: bool) -> IO[str]:
    """Open a new file that only this user can read: it holds what people said."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    if packed:
        return cast(IO[str], gzip.open(path, "wt", encoding="utf-8", newline=""))
    return path.open("w", encoding="utf-8", newline="")


def _writer(target: Path) -> Callable[[IO[str], AsyncIterator[Kept]], Coroutine[Any, Any, int]]:
    """Choose the format by the file's name. Raises BadInput."""
    suffixes = [suffix.lower() for suffix in target.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind in (".jsonl", ".ndjson"):
        return _write_json
    if kind == ".csv":
        return _write_csv
    raise BadInput(f"{target.name} must end in .jsonl or .csv (or those with .gz), which says how to write it.")


async def _write_json(file: IO[str], jokes: AsyncIterator[Kept]) -> int:
    count = 0
    async for joke in jokes:
        file.write(json_line(joke))
        count += 1
    return count


def json_line(joke: Kept) -> str:
    """Return a joke as a line of an export."""
    return json.dumps({name: getattr(joke, name) for name in FIELDS}, ensure_ascii=False) + "\n"


async def _write_csv(file: IO[str], jokes: AsyncIterator[Kept]) -> int:
    writer = csv.writer(file)
    writer.writerow(FIELDS)
    count = 0
    async for joke in jokes:
        writer.writerow([getattr(joke, name) for name in FIELDS])
        count += 1
    return count
