"""Which fine-tunes hold whose data, and which of them were withdrawn for that. The service is not asked.

    job 1 <- jokes 3, 7 (Ann), 9 (Bob)        Ann leaves:  job 1 held her rows,
    job 2 <- joke 9 (Bob), went on from job 1's model      job 2 went on from its model: both are withdrawn
    job 3 <- votes on what job 1's model told              so is job 3: that may have been one of Ann's jokes

What a withdrawn model told goes with it, for the same reason; the counts of its duels stay.
A fine-tune from before rows were noted counts as holding a person's data where they had a joke in its guild by then.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import aiosqlite

from bot.store.database import Database, Row

RowKind = Literal["joke", "answer"]

_HOLDING = """
WITH RECURSIVE
numbered AS (SELECT *, row_number() OVER (PARTITION BY guild_id ORDER BY started_at, rowid) AS number FROM jobs),
noted AS (SELECT job_id, count(DISTINCT kind || row_id) AS num_rows FROM job_rows WHERE user_id = :user_id
          GROUP BY job_id),
unnoted AS (SELECT job_id, 0 FROM jobs AS j WHERE NOT EXISTS (SELECT 1 FROM job_rows AS r WHERE r.job_id = j.job_id)
            AND EXISTS (SELECT 1 FROM jokes AS k WHERE k.guild_id = j.guild_id AND k.author_id = :user_id
                        AND k.provenance <> 'import' AND k.created_at <= j.started_at)),
held (job_id) AS (
    SELECT job_id FROM noted UNION SELECT job_id FROM unnoted
    UNION SELECT later.job_id FROM held JOIN jobs AS earlier ON earlier.job_id = held.job_id
                                        JOIN jobs AS later ON later.started_from = earlier.model OR later.job_id IN
                                        (SELECT r.job_id FROM answers AS a JOIN job_rows AS r
                                         ON r.kind = 'answer' AND r.row_id = a.id WHERE a.model = earlier.model))
SELECT n.*, coalesce(noted.num_rows, 0) AS num_rows, w.deleted_at, w.told_at,
       (SELECT max(kind) FROM job_rows AS r WHERE r.job_id = n.job_id) AS kind
FROM held JOIN numbered AS n USING (job_id) LEFT JOIN noted USING (job_id) LEFT JOIN withdrawals AS w USING (job_id)
"""
_TOLD = (
    "DELETE FROM answers WHERE model = ?",
    "UPDATE duels SET text_a = '' WHERE model_a = ?",
    "UPDATE duels SET text_b = '' WHERE model_b = ?",
)
_WITHDRAWN = """
SELECT n.*, 0 AS num_rows, w.deleted_at, w.told_at,
       (SELECT max(kind) FROM job_rows AS r WHERE r.job_id = n.job_id) AS kind
FROM withdrawals AS w JOIN
(SELECT *, row_number() OVER (PARTITION BY guild_id ORDER BY started_at, rowid) AS number FROM jobs) AS n USING (job_id)
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A fine-tune that holds data of somebody. number: its place among the guild's. model: what it made, if anything.

    num_rows: of that person in its own snapshot; 0 where it only went on from a model that held some, or learned from
    what such a model told, and where the person is not asked about. is_deleted: the service has let go of it.
    is_told: moderators know. learned_from: what its own rows are.
    """

    job_id: str
    guild_id: int
    channel_id: int
    message_id: int | None
    number: int
    model: str | None
    has_ended: bool
    num_rows: int
    is_deleted: bool
    is_told: bool
    learned_from: RowKind


class Lineage:
    """Rows of fine-tunes and withdrawals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, job_id: str, rows: Iterable[tuple[RowKind, int, int | None]]) -> None:
        """Note what a job was given, as (kind, row id, whose); again replaces what was noted."""
        values = [(job_id, kind, row_id, user_id) for kind, row_id, user_id in rows]

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute("DELETE FROM job_rows WHERE job_id = ?", (job_id,))
            await connection.executemany("INSERT INTO job_rows VALUES (?, ?, ?, ?)", values)

        await self._database.write(work)

    async def ask(self) -> str:
        """Note that a job is about to be asked for; returns a ticket for the job to bear."""
        ticket = secrets.token_hex(8)
        parameters: dict[str, Any] = {"ticket": ticket, "now": time.time()}
        sql = "INSERT INTO asked_jobs VALUES (:ticket, :now)"
        await self._database.write(lambda connection: connection.execute_fetchall(sql, parameters))
        return ticket

    async def answered(self, ticket: str) -> None:
        """Remember that the job with this ticket was noted, or that there is none."""
        sql, parameters = "DELETE FROM asked_jobs WHERE ticket = :ticket", {"ticket": ticket}
        await self._database.write(lambda connection: connection.execute_fetchall(sql, parameters))

    async def unanswered(self) -> dict[str, float]:
        """Return the tickets of jobs that may run although nobody knows of them, and when they were asked for."""
        rows = await self._database.rows("SELECT ticket, asked_at FROM asked_jobs", {})
        return {row["ticket"]: row["asked_at"] for row in rows}

    async def holding(self, user_id: int) -> list[Holder]:
        """Return the fine-tunes that hold data of a person and are not withdrawn, in every guild, oldest first."""
        sql = f"{_HOLDING} WHERE w.job_id IS NULL ORDER BY n.started_at"
        return [_holder(row) for row in await self._database.rows(sql, {"user_id": user_id})]

    async def withdraw(self, user_id: int) -> list[Holder]:
        """Mark what holds data of a person as withdrawn, and forget whose rows these were and what it told.

        Returns what was marked.
        """

        async def work(connection: aiosqlite.Connection) -> list[Holder]:
            parameters: dict[str, Any] = {"user_id": user_id, "now": time.time()}
            rows = await connection.execute_fetchall(
                f"{_HOLDING} WHERE w.job_id IS NULL ORDER BY n.started_at", parameters
            )
            found = [_holder(row) for row in rows]
            await connection.executemany(
                "INSERT INTO withdrawals (job_id, withdrawn_at) VALUES (?, ?)",
                [(each.job_id, parameters["now"]) for each in found],
            )
            await connection.execute("UPDATE job_rows SET user_id = NULL WHERE user_id = :user_id", parameters)
            models = [(each.model,) for each in found if each.model is not None]
            for sql in _TOLD:
                await connection.executemany(sql, models)
            return found

        return await self._database.write(work)

    async def unsettled(self) -> list[Holder]:
        """Return the withdrawn fine-tunes that the service still holds, or that moderators were not told of."""
        sql = f"{_WITHDRAWN} WHERE w.deleted_at IS NULL OR w.told_at IS NULL ORDER BY n.started_at DESC"
        return [_holder(row) for row in await self._database.rows(sql, {})]

    async def is_withdrawn(self, job_id: str) -> bool:
        """Say whether a fine-tune's model may not be used any more."""
        row = await self._database.row("SELECT 1 FROM withdrawals WHERE job_id = :job_id", {"job_id": job_id})
        return row is not None

    async def deleted(self, job_id: str) -> None:
        """Remember that the service has let go of it."""
        await self._mark("deleted_at", job_id)

    async def told(self, job_id: str) -> None:
        """Remember that the moderators were told."""
        await self._mark("told_at", job_id)

    async def _mark(self, column: str, job_id: str) -> None:
        sql = f"UPDATE withdrawals SET {column} = :now WHERE job_id = :job_id"
        parameters = {"job_id": job_id, "now": time.time()}
        await self._database.write(lambda connection: connection.execute_fetchall(sql, parameters))


def _holder(row: Row) -> Holder:
    return Holder(
        job_id=row["job_id"],
        guild_id=row["guild_id"],
        channel_id=row["channel_id"],
        message_id=row["message_id"],
        number=row["number"],
        model=row["model"],
        has_ended=row["finished_at"] is not None,
        num_rows=row["num_rows"],
        is_deleted=row["deleted_at"] is not None,
        is_told=row["told_at"] is not None,
        learned_from=row["kind"] or "joke",
    )
