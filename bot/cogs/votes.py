"""👍 and 👎 under the bot's own jokes: one vote a person, changeable, counted on the buttons, kept for training.

What is voted on is what the model wrote, never what people wrote. The buttons have fixed ids and are answered by one
persistent view, so that they work after a restart as before it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import discord
from discord.ext import commands

from bot.cogs.training import Views
from bot.errors import BadInput
from bot.prompts import opening
from bot.store import Store, StoreError, Tally, Vote
from bot.taste import Taste, learn
from bot.ui.replies import Context
from bot.ui.views import Interaction, View

log = logging.getLogger(__name__)

LOOKS: tuple[tuple[Vote, str, str], ...] = ((1, "👍", "vote:up"), (-1, "👎", "vote:down"))
NOBODY = Tally(0, 0)
MOST_OPINIONS = 500  # voted jokes that a taste is learned from, the newest

Press = Callable[[Interaction, Vote], Awaitable[None]]


class VotesCog(commands.Cog, name="Votes"):
    """Puts the buttons under jokes, and counts."""

    def __init__(self, store: Store, views: Views) -> None:
        self._store, self._views = store, views

    async def cog_load(self) -> None:
        """Answer the buttons of every joke there is."""
        self._views.add_view(VoteView(self._press))

    async def ballot(
        self, ctx: Context, message_id: int, topic: str | None, text: str, model: str
    ) -> discord.ui.View | None:
        """Remember a joke that was told in a server and return its buttons; none where that is not possible."""
        if ctx.guild is None or not text.strip():
            return None
        try:
            await self._store.votes.told(
                ctx.guild.id,
                message_id,
                ctx.author.id,
                topic or "",
                "message" if ctx.interaction is None else "slash",
                prompt=opening(topic),
                text=text.strip(),
                model=model,
            )
        except StoreError as error:
            log.warning("a joke cannot be voted on: %s", error)
            return None
        return drawn(NOBODY)

    async def taste(self, guild_id: int | None) -> Taste | None:
        """Learn what a server likes from its votes; None where they do not say."""
        if guild_id is None:
            return None
        return await asyncio.to_thread(learn, await self._store.votes.opinions(guild_id, MOST_OPINIONS))

    async def _press(self, interaction: Interaction, value: Vote) -> None:
        assert interaction.message is not None
        message_id = interaction.message.id
        if await self._store.votes.vote(message_id, interaction.user.id, value) is None:
            raise BadInput("I have forgotten this joke, so votes on it no longer count. `/joke` tells a new one.")
        await interaction.response.edit_message(view=drawn(await self._store.votes.tally(message_id)))


class VoteView(View):
    """Both buttons, with how many pressed each."""

    def __init__(self, press: Press, tally: Tally = NOBODY) -> None:
        super().__init__(timeout=None)
        for (value, emoji, custom_id), count in zip(LOOKS, (tally.up, tally.down), strict=True):
            self.add_item(_Button(press, value, emoji, custom_id, count))


class _Button(discord.ui.Button[VoteView]):
    def __init__(self, press: Press, value: Vote, emoji: str, custom_id: str, count: int) -> None:
        label = str(count) if count else None
        super().__init__(emoji=emoji, label=label, custom_id=custom_id, style=discord.ButtonStyle.secondary)
        self._press, self._value = press, value

    async def callback(self, interaction: Interaction) -> None:
        await self._press(interaction, self._value)


def drawn(tally: Tally) -> VoteView:
    """Return buttons to send; presses go to the persistent view, as they will after a restart."""

    async def never(interaction: Interaction, value: Vote) -> None:
        raise AssertionError("a view that has stopped is not asked")

    view = VoteView(never, tally)
    view.stop()
    return view
