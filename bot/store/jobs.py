"""Which fine-tunes the guilds started, where their progress is shown, and how they ended.

The service owns the jobs; this is what the bot must remember to go on watching them after a restart.
A guild has at most one that has not ended; the database itself holds to that.
"""

import sqlite3
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import aiosqlite

from bot.store.database import Database, Row
from bot.store.errors import JobActive

Decision = Literal["promoted", "kept", "undone"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fine-tune came out, as far as it is known. Losses are nats per token of the held-out jokes."""

    num_jokes: int | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tune of one guild. `status`, `model` and `finished_at` are None until it ends.

    number: its place among the guild's jobs, from 1. started_from: the model that told the guild's jokes when it began.
    model: what it made, whether or not it passed the gate. decision: what a moderator made of that.
    withdrawn: somebody whose data is in the model took that back, so that nothing may use it.
    """

    job_id: str
    guild_id: int
    channel_id: int
    message_id: int | None
    started_by: int | None
    started_at: datetime
    status: str | None
    model: str | None
    finished_at: datetime | None
    number: int
    started_from: str | None = None
    outcome: Outcome = Outcome()
    decision: Decision | None = None
    decided_by: int | None = None
    withdrawn: bool = False


_JOBS = (
    "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY guild_id ORDER BY started_at, rowid) AS number, "
    "EXISTS (SELECT 1 FROM withdrawals AS w WHERE w.job_id = jobs.job_id) AS withdrawn FROM jobs)"
)


class Jobs:
    """The guilds' fine-tunes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self,
        guild_id: int,
        job_id: str,
        channel_id: int,
        message_id: int | None,
        started_by: int | None,
        started_from: str | None = None,
    ) -> Job:
        """Remember a job that has begun; the same job again moves its progress message. Raises JobActive."""
        parameters: dict[str, Any] = {
            "guild_id": guild_id,
            "job_id": job_id,
            "channel_id": channel_id,
            "message_id": message_id,
            "started_by": started_by,
            "started_from": started_from,
            "now": time.time(),
        }

        async def work(connection: aiosqlite.Connection) -> Row:
            await connection.execute(
                "INSERT INTO jobs (job_id, guild_id, channel_id, message_id, started_by, started_from, started_at) "
                "VALUES (:job_id, :guild_id, :channel_id, :message_id, :started_by, :started_from, :now) "
                "ON CONFLICT (job_id) DO UPDATE SET channel_id = excluded.channel_id, message_id = excluded.message_id",
                parameters,
            )
            rows = await connection.execute_fetchall(f"{_JOBS} WHERE job_id = :job_id", {"job_id": job_id})
            return next(iter(rows))

        try:
            return _job(await self._database.write(work))
        except sqlite3.IntegrityError as error:
            raise JobActive from error

    async def active(self, guild_id: int) -> Job | None:
        """Return the guild's job that has not ended, or None."""
        row = await self._database.row(
            f"{_JOBS} WHERE guild_id = :guild_id AND finished_at IS NULL", {"guild_id": guild_id}
        )
        return None if row is None else _job(row)

    async def all_active(self) -> list[Job]:
        """Return every guild's job that has not ended: what the bot watches again after a restart."""
        return [_job(row) for row in await self._database.rows(f"{_JOBS} WHERE finished_at IS NULL", {})]

    async def finish(self, job_id: str, status: str, model: str | None, outcome: Outcome | None = None) -> bool:
        """Record how a job ended; False if it is unknown or had ended already (its first end stays)."""
        parameters = asdict(outcome or Outcome()) | {"job_id": job_id, "status": status, "model": model}

        async def work(connection: aiosqlite.Connection) -> bool:
            async with connection.execute(
                "UPDATE jobs SET status = :status, model = :model, finished_at = :now, num_jokes = :num_jokes, "
                "loss_before = :loss_before, loss_after = :loss_after, passed = :passed "
                "WHERE job_id = :job_id AND finished_at IS NULL",
                parameters | {"now": time.time()},
            ) as cursor:
                return cursor.rowcount == 1

        return await self._database.write(work)

    async def decide(self, job_id: str, decision: Decision, user_id: int | None) -> None:
        """Remember what was decided about a job's model, and by whom; the last decision counts."""
        sql = "UPDATE jobs SET decision = :decision, decided_by = :by, decided_at = :now WHERE job_id = :job_id"
        parameters = {"job_id": job_id, "decision": decision, "by": user_id, "now": time.time()}
        await self._database.write(lambda connection: connection.execute_fetchall(sql, parameters))

    async def is_known(self, job_id: str) -> bool:
        """Say whether a job was recorded."""
        row = await self._database.row("SELECT 1 FROM jobs WHERE job_id = :job_id", {"job_id": job_id})
        return row is not None

    async def of_message(self, message_id: int) -> Job | None:
        """Return the job whose message this is, or None."""
        row = await self._database.row(f"{_JOBS} WHERE message_id = :message_id", {"message_id": message_id})
        return None if row is None else _job(row)

    async def history(self, guild_id: int, limit: int = 10) -> list[Job]:
        """Return the guild's jobs, newest first, the active one included."""
        rows = await self._database.rows(
            f"{_JOBS} WHERE guild_id = :guild_id ORDER BY number DESC LIMIT :limit",
            {"guild_id": guild_id, "limit": max(0, limit)},
        )
        return [_job(row) for row in rows]


def _job(row: Row) -> Job:
    finished_at, passed = row["finished_at"], row["passed"]
    outcome = Outcome(row["num_jokes"], row["loss_before"], row["loss_after"], None if passed is None else bool(passed))
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
        number=row["number"],
        started_from=row["started_from"],
        outcome=outcome,
        decision=row["decision"],
        decided_by=row["decided_by"],
        withdrawn=bool(row["withdrawn"]),
    )
