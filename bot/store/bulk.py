"""Jokes by the thousand: imports in batches, each of them one transaction, and reading a whole collection.

    drafts ─▶ add ─▶ BEGIN IMMEDIATE ─ which are there? ─ insert the others ─ COMMIT ─▶ new or not, draft by draft

A batch takes the one writer's lock for some milliseconds, so that a bot that runs beside an import goes on writing.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiosqlite

from bot.store.database import Database, Row

GLOBAL = 0  # the `guild_id` of jokes that are no server's: the owner's imports, for a model of everybody's
PAGE = 2000  # jokes read at a time

_KNOWN = "SELECT dedup_key FROM jokes WHERE guild_id = :guild_id AND dedup_key IN (SELECT value FROM json_each(:keys))"
_INSERT = (
    "INSERT INTO jokes (guild_id, text, dedup_key, provenance, licence, is_global, created_at) "
    "VALUES (:guild_id, :text, :key, 'import', :licence, :is_global, :now)"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A joke to import. `text` and `key` are what `bot.store.text.clean_and_key` returned; `licence` is not empty."""

    text: str
    key: str
    licence: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A joke as it is exported: nobody's name is in it."""

    text: str
    provenance: str
    licence: str


class Bulk:
    """Batches of jokes, of one guild or of `GLOBAL`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, guild_id: int, keys: Sequence[str]) -> set[str]:
        """Return those of the keys under which there is a joke already."""
        rows = await self._database.rows(_KNOWN, {"guild_id": guild_id, "keys": json.dumps(keys)})
        return {row["dedup_key"] for row in rows}

    async def add(self, guild_id: int, drafts: Sequence[Draft]) -> list[bool]:
        """Import a batch in one transaction; return for each draft whether it is new. No two may share a key."""
        assert all(draft.licence for draft in drafts), "an import names its licence"

        async def work(connection: aiosqlite.Connection) -> list[bool]:
            keys = json.dumps([draft.key for draft in drafts])
            rows = await connection.execute_fetchall(_KNOWN, {"guild_id": guild_id, "keys": keys})
            known = {row["dedup_key"] for row in rows}
            common = {"guild_id": guild_id, "is_global": guild_id == GLOBAL, "now": time.time()}
            values = [
                common | {"text": draft.text, "key": draft.key, "licence": draft.licence}
                for draft in drafts
                if draft.key not in known
            ]
            await connection.executemany(_INSERT, values)
            return [draft.key not in known for draft in drafts]

        return await self._database.write(work)

    async def all(self, guild_id: int) -> AsyncIterator[Kept]:
        """Yield every joke of a guild, oldest first, a page in memory at a time."""
        last_id = 0
        while rows := await self._page(guild_id, last_id):
            for row in rows:
                yield Kept(row["text"], row["provenance"], row["licence"])
            last_id = rows[-1]["id"]

    async def _page(self, guild_id: int, last_id: int) -> list[Row]:
        return await self._database.rows(
            "SELECT id, text, provenance, licence FROM jokes WHERE guild_id = :guild_id AND id > :last_id "
            "ORDER BY id LIMIT :limit",
            {"guild_id": guild_id, "last_id": last_id, "limit": PAGE},
        )
