"""Says something to a person, wherever they spoke: in reply to a command, a button or a modal."""

from typing import Any

import aiohttp
import discord
from discord.ext import commands

Context = commands.Context[commands.Bot]

DISCORD_TROUBLE = (discord.HTTPException, discord.RateLimited, aiohttp.ClientError, OSError)
CANNOT_READ_HISTORY = 160002  # Discord: replying needs the permission to read what is replied to


async def say(
    ctx: Context,
    content: str | None = None,
    *,
    embed: discord.Embed | None = None,
    ephemeral: bool = False,
    **rest: Any,
) -> discord.Message:
    """Reply to a command. `ephemeral` shows a slash command's answer to its author alone. `rest`: view, …

    Where the bot may not send embeds or reply, it writes plain text, or without the reference.
    """
    if ctx.interaction is not None:
        rest["ephemeral"] = ephemeral
    elif embed is not None and not ctx.bot_permissions.embed_links:
        content, embed = "\n".join(part for part in (content, as_text(embed)) if part)[:2000], None
    if embed is not None:
        rest["embed"] = embed
    if ctx.interaction is not None:
        return await ctx.send(content, **rest)
    try:
        return await ctx.send(content, reference=ctx.message.to_reference(fail_if_not_exists=False), **rest)
    except discord.HTTPException as error:
        if error.code != CANNOT_READ_HISTORY:
            raise
        if isinstance(file := rest.get("file"), discord.File):
            file.fp.seek(0)  # the first attempt has read it
        return await ctx.send(content, **rest)


async def say_to(interaction: discord.Interaction, content: str, **rest: Any) -> None:
    """Answer a button or modal; only the person who used it sees it."""
    if interaction.response.is_done():
        await interaction.followup.send(content, ephemeral=True, **rest)
    else:
        await interaction.response.send_message(content, ephemeral=True, **rest)


def as_text(embed: discord.Embed) -> str:
    """Write an embed as text."""
    fields = [f"**{field.name}**\n{field.value}" for field in embed.fields]
    title = f"**{embed.title}**" if embed.title else ""
    return "\n".join(part for part in (title, embed.description, *fields, embed.footer.text) if part)


def is_moderator(permissions: discord.Permissions) -> bool:
    """Moderators are the people who may manage the server."""
    return permissions.manage_guild or permissions.administrator
