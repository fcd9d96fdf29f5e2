"""What each guild has chosen: short texts under short keys, such as `joke_model`."""

from bot.store.database import Database


class GuildSettings:
    """Per-guild choices that outlive a restart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, guild_id: int, key: str) -> str | None:
        """Return the value, or None if the guild has not chosen."""
        row = await self._database.row(
            "SELECT value FROM guild_settings WHERE guild_id = :guild_id AND key = :key",
            {"guild_id": guild_id, "key": key},
        )
        return None if row is None else row["value"]

    async def set(self, guild_id: int, key: str, value: str | None) -> None:
        """Keep a value; None forgets the choice."""
        sql = "DELETE FROM guild_settings WHERE guild_id = :guild_id AND key = :key"
        if value is not None:
            sql = (
                "INSERT INTO guild_settings (guild_id, key, value) VALUES (:guild_id, :key, :value) "
                "ON CONFLICT DO UPDATE SET value = excluded.value"
            )
        parameters = {"guild_id": guild_id, "key": key, "value": value}
        await self._database.write(lambda connection: connection.execute_fetchall(sql, parameters))
