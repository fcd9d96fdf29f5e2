"""`models` and `model list|set`: what is loaded where, with a picture of the memory, and which one tells jokes here."""

import asyncio
import io
import logging

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs import model_words as words
from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_command, hybrid_group, subcommand
from bot.errors import BotError, NotAllowed
from bot.service_client import Inventory, ServiceClient
from bot.ui import charts
from bot.ui.replies import Context, is_moderator, say
from bot.ui.text import inline

log = logging.getLogger(__name__)

PICTURE = "memory.png"
SUGGESTION_LIMIT_S = 2.0  # Discord waits 3 for the choices of an option


class ModelsCog(commands.Cog, name="Models"):
    """Shows the models and lets moderators choose the one that tells jokes."""

    def __init__(self, client: ServiceClient, models: GuildModel) -> None:
        self._client, self._models = client, models

    @hybrid_command("Show the models: what is loaded where, and how full the memory is.")
    async def models(self, ctx: Context) -> None:
        """Show the models, what is loaded where, how full the memory is, and which one tells jokes here."""
        await self._show(ctx)

    @hybrid_group("The model that tells jokes here.")
    async def model(self, ctx: Context) -> None:
        """Show the models; the same as `models`."""
        await self._show(ctx)

    @subcommand(model, "Show the models: what is loaded where, and how full the memory is.", name="list")
    async def list_(self, ctx: Context) -> None:
        """Show the models; the same as `models`."""
        await self._show(ctx)

    @subcommand(model, "Choose the model that tells jokes here (moderators).", name="set", usage="<name>")
    @app_commands.describe(name="Its name, as /models lists it.")
    async def set_(self, ctx: Context, *, name: str) -> None:
        """Choose the model that tells jokes here (moderators); one that is not loaded loads at the first joke."""
        if ctx.guild is None:
            raise commands.NoPrivateMessage
        if not is_moderator(ctx.permissions):
            raise NotAllowed("Only moderators (people who may manage the server) can choose the joke model.")
        async with ctx.typing():
            known = await self._known(ctx.guild.id)
            card = words.choose(known.models, name.strip().strip("`"))
            before = await self._models.use(ctx.guild.id, str(card["id"]))
        await say(ctx, words.chosen(card, before))

    @set_.autocomplete("name")
    async def suggest(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """Offer the models that can tell jokes here; nothing while the service does not answer."""
        try:
            async with asyncio.timeout(SUGGESTION_LIMIT_S):
                known = await self._known(interaction.guild_id)
                live = await self._models.live(interaction.guild_id)
        except (BotError, TimeoutError) as error:
            log.warning("no models to suggest: %s", type(error).__name__)
            return []
        return [
            app_commands.Choice(name=label, value=model) for label, model in words.choices(known.models, typed, live)
        ]

    async def _show(self, ctx: Context) -> None:
        guild_id = ctx.guild.id if ctx.guild else None
        async with ctx.typing():
            known = await self._known(guild_id)
            live = await self._models.live(guild_id)
            embed = words.overview(known.models, live, self._models.default)
            picture = await self._picture(ctx, known, embed)
        await say(ctx, embed=embed, file=picture)

    async def _picture(self, ctx: Context, known: Inventory, embed: discord.Embed) -> discord.File | None:
        """Draw the memory for the embed; in words where there are no files, nothing where no devices are named."""
        if not known.devices:
            return None
        devices = [charts.Device(each.name, each.total_bytes, each.used_bytes) for each in known.devices]
        shares = [words.share_of(card) for card in known.models]
        told = charts.describe(devices, shares)
        if not ctx.bot_permissions.attach_files:
            embed.add_field(name="Memory", value=inline(told, 1000), inline=False)
            return None
        png = await asyncio.to_thread(charts.picture, devices, shares)
        embed.set_image(url=f"attachment://{PICTURE}")
        return discord.File(io.BytesIO(png), PICTURE, description=told)

    async def _known(self, guild_id: int | None) -> Inventory:
        """What this server may know of: another server's tuned models are none of its business."""
        found = await self._client.inventory()
        ours = tuple(card for card in found.models if words.owner_of(str(card["id"])) in (None, str(guild_id)))
        return Inventory(ours, found.devices)
