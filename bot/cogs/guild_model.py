"""Which model tells a server's jokes: its own if it has one, else the default. Every change can be taken back."""

from collections.abc import Collection
from dataclasses import dataclass

from bot.store import Store


@dataclass(frozen=True, slots=True)
class Step:
    """A rollback: from which model to which, and which ones between were passed over because they are gone."""

    left: str
    now: str
    skipped: tuple[str, ...] = ()


class GuildModel:
    """Reads and changes the choice; private messages always get the default."""

    def __init__(self, store: Store, default: str) -> None:
        self._store, self.default = store, default

    async def live(self, guild_id: int | None) -> str:
        """Name the model that tells jokes here."""
        chosen = None if guild_id is None else await self._store.joke_models.live(guild_id)
        return chosen or self.default

    async def use(self, guild_id: int, model_id: str) -> str:
        """Tell jokes with this model from now on; returns the one before, which is remembered too."""
        before = await self.live(guild_id)
        if before != model_id:
            await self._store.joke_models.use(guild_id, model_id)
        return before

    async def rollback(
        self, guild_id: int, known: Collection[str] | None = None, *, only_from: str | None = None
    ) -> Step | None:
        """Go one step back; None where there is no earlier model, or `only_from` is not the live one (any more).

        known: the models there are; others are passed over, since nothing could tell jokes with them.
        """
        left = await self.live(guild_id)
        skipped: list[str] = []
        live = only_from or await self._store.joke_models.live(guild_id)
        while await self._store.joke_models.back(guild_id, live):
            now = await self.live(guild_id)
            if now != left and (known is None or now in known or now == self.default):
                return Step(left, now, tuple(skipped))
            skipped += [now] if now != left else []
            live = await self._store.joke_models.live(guild_id)
        return None
