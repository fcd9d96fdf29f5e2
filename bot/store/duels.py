"""Blind duels: which two models answered, what they said, who voted how until the end, and how it ended.

    open ─ votes (one each, changeable) ─> closed, by whoever is first: counts stay, votes go ─> revealed: words go

A duel that was closed but not shown yet is shown after a restart.
"""

import sqlite3
import time
from dataclasses import dataclass
from typing import Any, Literal

import aiosqlite

from bot.store.database import Database, Row
from bot.store.errors import DuelOpen

Choice = Literal["A", "B"]


@dataclass(frozen=True, slots=True)
class Duel:
    """A duel of one guild. Times are seconds since 1970; `votes` is (A, B), None until it is closed."""

    id: int
    guild_id: int
    channel_id: int
    message_id: int
    topic: str
    models: tuple[str, str]
    texts: tuple[str, str]
    votes_wanted: int
    ends_at: float
    votes: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Record:
    """How one model did against another in a guild's duels."""

    won: int
    lost: int
    drawn: int


_RECORD = """
SELECT count(CASE WHEN ours > theirs THEN 1 END) AS won,
       count(CASE WHEN ours < theirs THEN 1 END) AS lost,
       count(CASE WHEN ours = theirs THEN 1 END) AS drawn
FROM (SELECT votes_a AS ours, votes_b AS theirs FROM duels
      WHERE guild_id = :guild_id AND model_a = :model AND model_b = :other AND closed_at IS NOT NULL
      UNION ALL
      SELECT votes_b, votes_a FROM duels
      WHERE guild_id = :guild_id AND model_b = :model AND model_a = :other AND closed_at IS NOT NULL)
"""


class Duels:
    """The guilds' duels."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(
        self,
        guild_id: int,
        channel_id: int,
        message_id: int,
        topic: str,
        models: tuple[str, str],
        texts: tuple[str, str],
        *,
        votes_wanted: int,
        lasts_s: float,
    ) -> Duel:
        """Begin a duel; models and texts as (A, B). Raises DuelOpen when the channel has one."""
        now = time.time()
        parameters: dict[str, Any] = {
            "guild_id": guild_id,
            "channel_id": channel_id,
            "message_id": message_id,
            "topic": topic,
            "model_a": models[0],
            "model_b": models[1],
            "text_a": texts[0],
            "text_b": texts[1],
            "votes_wanted": votes_wanted,
            "started_at": now,
            "ends_at": now + lasts_s,
        }
        sql = f"INSERT INTO duels ({', '.join(parameters)}) VALUES (:{', :'.join(parameters)}) RETURNING *"

        async def work(connection: aiosqlite.Connection) -> Row:
            return next(iter(await connection.execute_fetchall(sql, parameters)))

        try:
            return _duel(await self._database.write(work))
        except sqlite3.IntegrityError as error:
            raise DuelOpen from error

    async def open_in(self, channel_id: int) -> Duel | None:
        """Return the channel's open duel, or None."""
        return await self._one("channel_id = :value AND closed_at IS NULL", channel_id)

    async def of_message(self, message_id: int) -> Duel | None:
        """Return the duel a message shows, or None."""
        return await self._one("message_id = :value", message_id)

    async def unrevealed(self) -> list[Duel]:
        """Return every duel whose end has not been shown: what the bot takes up again after a restart."""
        rows = await self._database.rows("SELECT * FROM duels WHERE revealed_at IS NULL ORDER BY id", {})
        return [_duel(row) for row in rows]

    async def vote(self, duel_id: int, user_id: int, choice: Choice) -> int | None:
        """Count a person's vote, or change it; returns how many have voted, None if the duel is over."""

        async def work(connection: aiosqlite.Connection) -> int | None:
            now = {"duel_id": duel_id, "now": time.time()}
            sql = "SELECT 1 FROM duels WHERE id = :duel_id AND closed_at IS NULL AND ends_at > :now"
            if not list(await connection.execute_fetchall(sql, now)):
                return None
            await connection.execute(
                "INSERT INTO duel_votes VALUES (:duel_id, :user_id, :choice) "
                "ON CONFLICT DO UPDATE SET choice = excluded.choice",
                {"duel_id": duel_id, "user_id": user_id, "choice": choice},
            )
            count = "SELECT count(*) AS n FROM duel_votes WHERE duel_id = :duel_id"
            rows = await connection.execute_fetchall(count, {"duel_id": duel_id})
            return int(next(iter(rows))["n"])

        return await self._database.write(work)

    async def count(self, duel_id: int) -> int:
        """Say how many have voted in an open duel."""
        sql = "SELECT count(*) AS n FROM duel_votes WHERE duel_id = :duel_id"
        row = await self._database.row(sql, {"duel_id": duel_id})
        return 0 if row is None else int(row["n"])

    async def close(self, duel_id: int) -> Duel:
        """End a duel and return it with its counts; ended already, it is returned as it ended."""

        async def work(connection: aiosqlite.Connection) -> Row:
            parameters = {"duel_id": duel_id, "now": time.time()}
            counted = "(SELECT count(*) FROM duel_votes WHERE duel_id = :duel_id AND choice = '{}')"
            await connection.execute(
                f"UPDATE duels SET closed_at = :now, votes_a = {counted.format('A')}, votes_b = {counted.format('B')} "
                "WHERE id = :duel_id AND closed_at IS NULL",
                parameters,
            )
            await connection.execute("DELETE FROM duel_votes WHERE duel_id = :duel_id", {"duel_id": duel_id})
            sql = "SELECT * FROM duels WHERE id = :duel_id"
            return next(iter(await connection.execute_fetchall(sql, {"duel_id": duel_id})))

        return _duel(await self._database.write(work))

    async def revealed(self, duel_id: int) -> None:
        """Remember that the end was shown, or that there is nothing left to show it on; what was said is forgotten."""
        sql, parameters = (
            "UPDATE duels SET revealed_at = :now, topic = '', text_a = '', text_b = '' WHERE id = :duel_id",
            {"duel_id": duel_id, "now": time.time()},
        )
        await self._database.write(lambda connection: connection.execute_fetchall(sql, parameters))

    async def record(self, guild_id: int, model: str, other: str) -> Record:
        """Count how often `model` won, lost and drew against `other` here."""
        row = await self._database.row(_RECORD, {"guild_id": guild_id, "model": model, "other": other})
        assert row is not None
        return Record(row["won"], row["lost"], row["drawn"])

    async def _one(self, where: str, value: int) -> Duel | None:
        row = await self._database.row(f"SELECT * FROM duels WHERE {where} ORDER BY id DESC", {"value": value})
        return None if row is None else _duel(row)


def _duel(row: Row) -> Duel:
    return Duel(
        id=row["id"],
        guild_id=row["guild_id"],
        channel_id=row["channel_id"],
        message_id=row["message_id"],
        topic=row["topic"],
        models=(row["model_a"], row["model_b"]),
        texts=(row["text_a"], row["text_b"]),
        votes_wanted=row["votes_wanted"],
        ends_at=row["ends_at"],
        votes=None if row["closed_at"] is None else (row["votes_a"], row["votes_b"]),
    )
