"""Who agreed that the jokes they add may train the models, to which text, and until when.

Agreement covers the jokes added under it. Withdrawing ends it at once, for all of them and for good: agreeing again
covers what is added (or added again) from then on.
"""

import time
from typing import Any

import aiosqlite

from bot.store.database import Database
from bot.store.errors import UnknownConsent

CONSENT_VERSION = 1
CONSENT_TEXT = (
    "The jokes I add may be used to train this server's joke model on the machine that runs this bot: they are sent "
    "to nobody else, and I can withdraw this at any time with !privacy, which keeps them out of all later training."
)


class Consents:
    """Agreements to training, per person."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def give(self, user_id: int, version: int) -> None:
        """Record that a person agreed to this version of the text; twice is once. Raises UnknownConsent."""
        check_version(version)
        await self._database.write(lambda connection: stand(connection, user_id, version))

    async def current(self, user_id: int) -> int | None:
        """Return the newest version the person agrees to now, or None."""
        row = await self._database.row(
            "SELECT max(version) AS version FROM consents WHERE user_id = :user_id AND withdrawn_at IS NULL",
            {"user_id": user_id},
        )
        return None if row is None else row["version"]

    async def withdraw(self, user_id: int) -> int:
        """End all of a person's agreements; return how many jokes they covered, in all guilds."""

        async def work(connection: aiosqlite.Connection) -> int:
            standing = "FROM consents WHERE user_id = :user_id AND withdrawn_at IS NULL"
            parameters: dict[str, Any] = {"user_id": user_id, "now": time.time()}
            async with connection.execute(
                f"SELECT count(*) FROM jokes WHERE consent_id IN (SELECT id {standing})", parameters
            ) as cursor:
                row = await cursor.fetchone()
            await connection.execute(
                "UPDATE consents SET withdrawn_at = :now WHERE user_id = :user_id AND withdrawn_at IS NULL", parameters
            )
            assert row is not None
            return int(row[0])

        return await self._database.write(work)


def check_version(version: int) -> None:
    """Refuse a version no text was ever written for (UnknownConsent)."""
    if not 1 <= version <= CONSENT_VERSION:
        raise UnknownConsent(version, CONSENT_VERSION)


async def stand(connection: aiosqlite.Connection, user_id: int | None, version: int) -> int:
    """Return the id of the standing agreement, made if there is none; inside a transaction. None is the bot itself."""
    parameters: dict[str, Any] = {"user_id": user_id, "version": version, "now": time.time()}
    await connection.execute(
        "INSERT INTO consents (user_id, version, given_at) VALUES (:user_id, :version, :now) ON CONFLICT DO NOTHING",
        parameters,
    )
    async with connection.execute(
        "SELECT id FROM consents WHERE user_id IS :user_id AND version = :version AND withdrawn_at IS NULL", parameters
    ) as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return int(row["id"])
