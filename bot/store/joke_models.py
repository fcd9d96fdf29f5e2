"""Which model tells each guild's jokes, and which ones did before: a stack, so that every change can be taken back.

    use(B)   live A, past [x]  ->  live B, past [x, A]
    back()   live B, past [x, A]  ->  live A, past [x]

None is the default of the settings. Each change is one transaction.
"""

import time
from collections.abc import Collection
from typing import Any

import aiosqlite

from bot.store.database import Database

LIVE = "joke_model"
_PAST = "SELECT id, model FROM past_joke_models WHERE guild_id = :guild_id ORDER BY id DESC"


class JokeModels:
    """The guilds' choices; kept over restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def live(self, guild_id: int) -> str | None:
        """Return the model that was chosen, or None for the default."""
        row = await self._database.row(
            "SELECT value FROM guild_settings WHERE guild_id = :guild_id AND key = :key",
            {"guild_id": guild_id, "key": LIVE},
        )
        return None if row is None else row["value"]

    async def past(self, guild_id: int) -> list[str | None]:
        """Return the models before the live one, the last first."""
        return [row["model"] for row in await self._database.rows(_PAST, {"guild_id": guild_id})]

    async def use(self, guild_id: int, model: str | None) -> bool:
        """Make a model the live one and remember the one before; False if it is already."""

        async def work(connection: aiosqlite.Connection) -> bool:
            before = await _live(connection, guild_id)
            if before == model:
                return False
            await connection.execute(
                "INSERT INTO past_joke_models (guild_id, model, left_at) VALUES (:guild_id, :before, :now)",
                {"guild_id": guild_id, "before": before, "now": time.time()},
            )
            await _put(connection, guild_id, model)
            return True

        return await self._database.write(work)

    async def back(self, guild_id: int, left: str | None) -> bool:
        """Take one step back from `left`; False when it is not the live one (any more), or there is no step."""

        async def work(connection: aiosqlite.Connection) -> bool:
            top = next(iter(await connection.execute_fetchall(f"{_PAST} LIMIT 1", {"guild_id": guild_id})), None)
            if top is None or await _live(connection, guild_id) != left:
                return False
            await connection.execute("DELETE FROM past_joke_models WHERE id = :id", {"id": top["id"]})
            await _put(connection, guild_id, top["model"])
            return True

        return await self._database.write(work)

    async def withdraw(self, models: Collection[str]) -> dict[int, tuple[str, str | None]]:
        """Take models out of every guild's present and past; a guild whose live one goes falls back to the last other.

        Returns what changed, by guild: (the model that was live, the one that is now).
        """

        async def work(connection: aiosqlite.Connection) -> dict[int, tuple[str, str | None]]:
            changed: dict[int, tuple[str, str | None]] = {}
            for model in models:
                await connection.execute("DELETE FROM past_joke_models WHERE model = :model", {"model": model})
            for model in models:
                rows = await connection.execute_fetchall(
                    "SELECT guild_id FROM guild_settings WHERE key = :key AND value = :model",
                    {"key": LIVE, "model": model},
                )
                for row in list(rows):
                    changed[row["guild_id"]] = (model, await _fall_back(connection, row["guild_id"]))
            return changed

        return await self._database.write(work)


async def _fall_back(connection: aiosqlite.Connection, guild_id: int) -> str | None:
    top = next(iter(await connection.execute_fetchall(f"{_PAST} LIMIT 1", {"guild_id": guild_id})), None)
    model = None if top is None else top["model"]
    if top is not None:
        await connection.execute("DELETE FROM past_joke_models WHERE id = :id", {"id": top["id"]})
    await _put(connection, guild_id, model)
    return None if model is None else str(model)


async def _live(connection: aiosqlite.Connection, guild_id: int) -> str | None:
    rows = await connection.execute_fetchall(
        "SELECT value FROM guild_settings WHERE guild_id = :guild_id AND key = :key",
        {"guild_id": guild_id, "key": LIVE},
    )
    return next((str(row["value"]) for row in rows), None)


async def _put(connection: aiosqlite.Connection, guild_id: int, model: str | None) -> None:
    parameters: dict[str, Any] = {"guild_id": guild_id, "key": LIVE, "model": model}
    if model is None:
        sql = "DELETE FROM guild_settings WHERE guild_id = :guild_id AND key = :key"
    else:
        sql = (
            "INSERT INTO guild_settings (guild_id, key, value) VALUES (:guild_id, :key, :model) "
            "ON CONFLICT DO UPDATE SET value = excluded.value"
        )
    await connection.execute(sql, parameters)
