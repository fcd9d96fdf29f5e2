"""Says something to a person, wherever they spoke: in reply to a command, a button or a modal."""

from typing import Any

import discord
from discord.ext import commands

Context = commands.Context[commands.Bot]


async def say(ctx: Context, content: str | None = None, *, ephemeral: bool = False, **rest: Any) -> discord.Message:
    """Reply to a command. `ephemeral` shows a slash command's answer to its author alone. `rest`: embed, view, …"""
    if ctx.interaction is not None:
        return await ctx.send(content, ephemeral=ephemeral, **rest)
    reference = ctx.message.to_reference(fail_if_not_exists=False)
    return await ctx.send(content, reference=reference, **rest)


async def say_to(interaction: discord.Interaction, content: str, **rest: Any) -> None:
    """Answer a button or modal; only the person who used it sees it."""
    if interaction.response.is_done():
        await interaction.followup.send(content, ephemeral=True, **rest)
    else:
        await interaction.response.send_message(content, ephemeral=True, **rest)


def is_moderator(permissions: discord.Permissions) -> bool:
    """Moderators are the people who may manage the server."""
    return permissions.manage_guild or permissions.administrator
