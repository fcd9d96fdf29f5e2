"""`models`, `model list|set`, `about`, `ping` and `help`: what this bot is, what it runs on, and how to use it."""

import time
from collections.abc import Iterable

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_command, hybrid_group, subcommand
from bot.cogs.settings_words import about, command_help, describe_model, overview
from bot.config import BotSettings
from bot.errors import BadInput, NotAllowed
from bot.service_client import Json, ServiceClient
from bot.ui.failures import nearest_name, shown_prefix
from bot.ui.replies import Context, is_moderator, say
from bot.ui.text import inline


class SettingsCog(commands.Cog, name="About"):
    """Shows what there is and chooses the joke model."""

    def __init__(
        self,
        settings: BotSettings,
        client: ServiceClient,
        models: GuildModel,
        *,
        message_content: bool,
        playground: bool,
    ) -> None:
        self._settings, self._client, self._models = settings, client, models
        self._message_content, self._playground = message_content, playground
        self._started_at = time.monotonic()

    @hybrid_command("List the models there are.")
    async def models(self, ctx: Context) -> None:
        """List the models, and which one tells jokes here."""
        await self._list(ctx)

    @hybrid_group("The model that tells jokes here.")
    async def model(self, ctx: Context) -> None:
        """List the models, and which one tells jokes here."""
        await self._list(ctx)

    @subcommand(model, "List the models there are.", name="list")
    async def list_(self, ctx: Context) -> None:
        """List the models, and which one tells jokes here."""
        await self._list(ctx)

    @subcommand(model, "Choose the model that tells jokes here (moderators).", name="set", usage="<name>")
    @app_commands.describe(name="Its name, as `models` lists it.")
    async def set_(self, ctx: Context, *, name: str) -> None:
        """Choose the model that tells jokes here."""
        if ctx.guild is None:
            raise commands.NoPrivateMessage
        if not is_moderator(ctx.permissions):
            raise NotAllowed("Only moderators (people who may manage the server) can choose the joke model.")
        async with ctx.typing():
            card = self._chosen(await self._usable(ctx.guild.id), name.strip().strip("`"))
            before = await self._models.use(ctx.guild.id, card["id"])
        await say(
            ctx, f"✅ `{inline(card['id'], 100)}` tells the jokes here now; before, it was `{inline(before, 100)}`."
        )

    @hybrid_command("Who I am, and how I am doing.")
    async def about(self, ctx: Context) -> None:
        """Say what this bot is, what runs behind it, and how it is doing."""
        async with ctx.typing():
            is_ready = await self._client.ready()
        live = await self._models.live(ctx.guild.id if ctx.guild else None)
        uptime_s = time.monotonic() - self._started_at
        prefix = self._settings.prefix
        embed = about(live, uptime_s, prefix, is_ready=is_ready, message_content=self._message_content)
        if self._playground:
            where = "In the playground, a stand-in for Discord on this machine."
            embed.add_field(name="Where we are", value=where, inline=False)
        await say(ctx, embed=embed)

    @hybrid_command("Am I there, and is the model?")
    async def ping(self, ctx: Context) -> None:
        """Check the way to Discord and to the model service."""
        async with ctx.typing():
            started = time.perf_counter()
            is_ready = await self._client.ready()
            service_ms = (time.perf_counter() - started) * 1000
        latency = ctx.bot.latency
        discord_ms = f"{latency * 1000:.0f} ms" if latency == latency and latency < 60 else "just connected"
        service = f"ready, {service_ms:.0f} ms" if is_ready else "not ready; try again in a minute"
        await say(ctx, f"🏓 Discord: {discord_ms} · models: {service}")

    @hybrid_command("What I can do, and how to ask for it.", usage="[command]")
    @app_commands.describe(command="A command to explain.")
    async def help(self, ctx: Context, *, command: str = "") -> None:
        """List every command, or explain one: `help complete`."""
        name = command.strip().lstrip("/").removeprefix(self._settings.prefix)
        if not name:
            embed = overview(
                _shown(ctx.bot.cogs.values()), self._settings.prefix, message_content=self._message_content
            )
            await say(ctx, embed=embed)
            return
        found = ctx.bot.get_command(name)
        if found is None or found.hidden:
            nearest = nearest_name(name, (each.qualified_name for each in ctx.bot.walk_commands()))
            hint = f" Did you mean `{nearest}`?" if nearest else ""
            raise BadInput(f"There is no command `{inline(name, 40)}`.{hint}")
        await say(ctx, embed=command_help(found, shown_prefix(ctx)))

    async def _list(self, ctx: Context) -> None:
        guild_id = ctx.guild.id if ctx.guild else None
        async with ctx.typing():
            cards = await self._usable(guild_id)
        live = await self._models.live(guild_id)
        lines = [describe_model(card, is_live=card["id"] == live) for card in cards]
        embed = discord.Embed(title="Models", description="\n".join(lines) or "There are none.", colour=0x5865F2)
        await say(ctx, embed=embed.set_footer(text="🎤 tells the jokes here"))

    async def _usable(self, guild_id: int | None) -> list[Json]:
        """The models this server may know of: another server's tuned models are none of its business."""
        return [card for card in await self._client.models() if owner_of(str(card["id"])) in (None, str(guild_id))]

    @staticmethod
    def _chosen(cards: list[Json], name: str) -> Json:
        for card in cards:
            if card["id"] == name:
                if card.get("task", "generate") != "generate":
                    raise BadInput(f"`{inline(name, 100)}` reads moods and cannot tell jokes.")
                if card.get("state", "ready") != "ready":
                    raise BadInput(f"`{inline(name, 100)}` is not ready yet. `/models` shows when it is.")
                return card
        nearest = nearest_name(name, (str(card["id"]) for card in cards))
        hint = f" Did you mean `{nearest}`?" if nearest else ""
        raise BadInput(f"There is no model called `{inline(name, 100)}`.{hint} `/models` lists what there is.")


def owner_of(model_id: str) -> str | None:
    """Return the server a tuned model belongs to (`ft:<base>:<server>:<job>`); None: everybody's."""
    parts = model_id.split(":")
    return parts[-2] if parts[0] == "ft" and len(parts) >= 4 and parts[-2].isdigit() else None


def _shown(cogs: Iterable[commands.Cog]) -> list[commands.Cog]:
    return [cog for cog in cogs if cog.get_commands()]
