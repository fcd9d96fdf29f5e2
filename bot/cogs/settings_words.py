"""The help and the self-portrait."""

from collections.abc import Sequence
from typing import Any

import discord
from discord.ext import commands

from bot.cogs.model_words import code
from bot.service_client import Json
from bot.ui.text import inline

COLOUR = 0xF5A623
NO_MESSAGE_CONTENT = (
    "I run without the message content intent, so I cannot read `{prefix}` commands in servers. Use the slash commands,"
    " mention me (`@me joke`), or write to me privately. The person who runs me can switch the intent on in Discord's"
    " developer portal, under Bot, Privileged Gateway Intents."
)


def overview(cogs: Sequence[commands.Cog], prefix: str, *, message_content: bool) -> discord.Embed:
    """Every command by topic, one line each."""
    start = f"Type `{prefix}joke` or pick the same command from Discord's `/` menu."
    if not message_content:
        start = NO_MESSAGE_CONTENT.format(prefix=prefix)
    embed = discord.Embed(title="What I can do", description=start, colour=COLOUR)
    for cog in cogs:
        lines = [line for command in cog.get_commands() for line in _lines(command, prefix)]
        embed.add_field(name=cog.qualified_name, value="\n".join(lines)[:1024], inline=False)
    return embed.set_footer(text=f"{prefix}help <command> explains one of them")


def command_help(command: commands.Command[Any, ..., Any], prefix: str) -> discord.Embed:
    """One command with its use and its subcommands."""
    title = f"{prefix}{command.qualified_name} {command.usage or command.signature}".strip()
    embed = discord.Embed(title=inline(title), description=command.help or command.description, colour=COLOUR)
    if isinstance(command, commands.Group):
        parts = sorted(command.commands, key=lambda each: each.name)
        lines = [f"`{prefix}{each.qualified_name}` {each.description}" for each in parts]
        embed.add_field(name="With it go", value="\n".join(lines), inline=False)
    if command.aliases:
        embed.set_footer(text=f"Also: {', '.join(command.aliases)}")
    return embed


def about(live_model: str, models: str, uptime_s: float, prefix: str, *, message_content: bool) -> discord.Embed:
    """Who I am. models: how they are."""
    embed = discord.Embed(
        title="Punchline",
        description=(
            "A bot with a sense of humour that its community trains. I run on my owner's machine: what I learn from"
            " stays there, and no cloud sees it."
        ),
        colour=COLOUR,
    )
    embed.add_field(name="Jokes here are told by", value=f"{code(live_model)}")
    embed.add_field(name="Models", value=models)
    embed.add_field(name="Up for", value=_uptime(uptime_s))
    if not message_content:
        embed.add_field(name="Please note", value=NO_MESSAGE_CONTENT.format(prefix=prefix), inline=False)
    return embed.set_footer(text=f"{prefix}help lists what I can do · {prefix}privacy says what I keep")


def not_ready(cards: Sequence[Json]) -> str:
    """Say what keeps the models from being ready, without naming those of other servers."""
    states = [str(card.get("state")) for card in cards]
    counts = [f"{states.count(state)} {state}" for state in ("loading", "failed") if state in states]
    return f"{', '.join(counts)}; `/models` says more" if counts else "not ready; try again in a minute"


def _lines(command: commands.Command[Any, ..., Any], prefix: str) -> list[str]:
    if command.hidden:
        return []
    usage = f" {command.usage}" if command.usage else ""
    line = f"`{prefix}{command.qualified_name}{usage}` {command.description}"
    if isinstance(command, commands.Group):
        words = ", ".join(f"`{each.name}`" for each in sorted(command.commands, key=lambda each: each.name))
        line = f"{line} With {words}."
    return [line]


def _uptime(uptime_s: float) -> str:
    minutes = int(uptime_s // 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
