"""Which model tells a server's jokes: its own if it has one, else the default of the settings."""

from bot.store import Store

LIVE, PREVIOUS = "joke_model", "previous_joke_model"


class GuildModel:
    """Reads and changes the choice; private messages always get the default."""

    def __init__(self, store: Store, default: str) -> None:
        self._store, self.default = store, default

    async def live(self, guild_id: int | None) -> str:
        """Name the model that tells jokes here."""
        chosen = None if guild_id is None else await self._store.settings.get(guild_id, LIVE)
        return chosen or self.default

    async def use(self, guild_id: int, model_id: str) -> str:
        """Tell jokes with this model from now on; returns the one before, which is remembered too."""
        before = await self.live(guild_id)
        if before != model_id:
            await self._store.settings.set(guild_id, PREVIOUS, before)
            await self._store.settings.set(guild_id, LIVE, model_id)
        return before
