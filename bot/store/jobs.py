"""Which fine-tunes the guilds started, where their progress is shown, and how they ended.

The service owns the jobs; this is what the bot must remember to go on watching them after a restart.
A guild has at most one that has not ended; the database itself holds to that.
"""

import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiosqlite

from bot.store.database import Database, Row
from bot.store.errors import JobActive


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tune of one guild. `status`, `model` and `finished_at` are None until it ends."""

    job_id: str
    guild_id: int
    channel_id: int
    message_id: int | None
    started_by: int | None
    started_at: datetime
    status: str | None
    model: str | None
    finished_at: datetime | None


class Jobs:
    """The guilds' fine-tunes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self, guild_id: int, job_id: str, channel_id: int, message_id: int | None, started_by: int | None
    ) -> Job:
        """Remember a job that has begun; the same job again moves its progress message. Raises JobActive."""
        parameters: dict[str, Any] = {
            "guild_id": guild_id,
            "job_id": job_id,
            "channel_id": channel_id,
            "message_id": message_id,
            "started_by": started_by,
            "now": time.time(),
        }

        async def work(connection: aiosqlite.Connection) -> Row:
            rows = await connection.execute_fetchall(
                "INSERT INTO jobs (job_id, guild_id, channel_id, message_id, started_by, started_at) "
                "VALUES (:job_id, :guild_id, :channel_id, :message_id, :started_by, :now) "
                "ON CONFLICT (job_id) DO UPDATE SET channel_id = excluded.channel_id, message_id = excluded.message_id "
                "RETURNING *",
                parameters,
            )
            return next(iter(rows))

        try:
            return _job(await self._database.write(work))
        except sqlite3.IntegrityError as error:
            raise JobActive from error

    async def active(self, guild_id: int) -> Job | None:
        """Return the guild's job that has not ended, or None."""
        row = await self._database.row(
            "SELECT * FROM jobs WHERE guild_id = :guild_id AND finished_at IS NULL", {"guild_id": guild_id}
        )
        return None if row is None else _job(row)

    async def all_active(self) -> list[Job]:
        """Return every guild's job that has not ended: what the bot watches again after a restart."""
        return [_job(row) for row in await self._database.rows("SELECT * FROM jobs WHERE finished_at IS NULL", {})]

    async def finish(self, job_id: str, status: str, model: str | None) -> bool:
        """Record how a job ended; False if it is unknown or had ended already (its first end stays)."""

        async def work(connection: aiosqlite.Connection) -> bool:
            async with connection.execute(
                "UPDATE jobs SET status = :status, model = :model, finished_at = :now "
                "WHERE job_id = :job_id AND finished_at IS NULL",
                {"job_id": job_id, "status": status, "model": model, "now": time.time()},
            ) as cursor:
                return cursor.rowcount == 1

        return await self._database.write(work)

    async def history(self, guild_id: int, limit: int = 10) -> list[Job]:
        """Return the guild's jobs, newest first, the active one included."""
        rows = await self._database.rows(
            "SELECT * FROM jobs WHERE guild_id = :guild_id ORDER BY started_at DESC, rowid DESC LIMIT :limit",
            {"guild_id": guild_id, "limit": max(0, limit)},
        )
        return [_job(row) for row in rows]


def _job(row: Row) -> Job:
    finished_at = row["finished_at"]
    return Job(
        job_id=row["job_id"],
        guild_id=row["guild_id"],
        channel_id=row["channel_id"],
        message_id=row["message_id"],
        started_by=row["started_by"],
        started_at=datetime.fromtimestamp(row["started_at"], UTC),
        status=row["status"],
        model=row["model"],
        finished_at=None if finished_at is None else datetime.fromtimestamp(finished_at, UTC),
    )
