"""Builders for the store's tests: real SQLite files in pytest's own folder."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bot.store import CONSENT_VERSION, Added, Store

GUILD, OTHER_GUILD = 1001, 2002
ANN, BOB = 11, 22
NOBODY_UID = 65534


@asynccontextmanager
async def open_store(folder: Path, discord_permission: str | None = None) -> AsyncIterator[Store]:
    async with asyncio.timeout(20), await Store.open(folder / "punchline.db", discord_permission) as store:
        yield store


async def add(
    store: Store, text: str, *, guild: int = GUILD, author: int | None = ANN, consent: int | None = CONSENT_VERSION
) -> Added:
    """Add a joke through the modal, with consent unless told."""
    return await store.jokes.add(guild, author, text, "modal", consent)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write anywhere: be nobody for a moment, so that permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY_UID)
    try:
        yield
    finally:
        os.seteuid(0)
