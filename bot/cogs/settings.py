"""`about`, `ping` and `help`: what this bot is, how it is doing, and how to use it."""

import time
from collections.abc import Iterable

from discord import app_commands
from discord.ext import commands

from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_command
from bot.cogs.settings_words import about, command_help, not_ready, overview
from bot.config import BotSettings
from bot.errors import BadInput, BotError
from bot.service_client import ServiceClient
from bot.ui.failures import nearest_name, shown_prefix
from bot.ui.replies import Context, say
from bot.ui.text import inline


class SettingsCog(commands.Cog, name="About"):
    """Says what this bot is."""

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

    @hybrid_command("Who I am, and how I am doing.")
    async def about(self, ctx: Context) -> None:
        """Say what this bot is, what runs behind it, and how it is doing."""
        async with ctx.typing():
            models = await self._health()
        live = await self._models.live(ctx.guild.id if ctx.guild else None)
        uptime_s = time.monotonic() - self._started_at
        prefix = self._settings.prefix
        embed = about(live, models, uptime_s, prefix, message_content=self._message_content)
        if self._playground:
            where = "In the playground, a stand-in for Discord on this machine."
            embed.add_field(name="Where we are", value=where, inline=False)
        await say(ctx, embed=embed)

    @hybrid_command("Am I there, and is the model?")
    async def ping(self, ctx: Context) -> None:
        """Check the way to Discord and to the model service."""
        async with ctx.typing():
            started = time.perf_counter()
            models = await self._health()
            service_ms = (time.perf_counter() - started) * 1000
        latency = ctx.bot.latency
        discord_ms = f"{latency * 1000:.0f} ms" if latency == latency and latency < 60 else "just connected"
        await say(ctx, f"🏓 Discord: {discord_ms} · models: {models} ({service_ms:.0f} ms)")

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

    async def _health(self) -> str:
        """Say how the models are; one that loads when it is asked is as good as ready."""
        if await self._client.ready():
            return "ready"
        try:
            return not_ready(await self._client.models())
        except BotError:
            return not_ready([])


def _shown(cogs: Iterable[commands.Cog]) -> list[commands.Cog]:
    return [cog for cog in cogs if cog.get_commands()]
