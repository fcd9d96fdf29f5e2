"""Turns every failure into one plain sentence, and says it where the person is: the bot's one error handler.

    prefix and hybrid commands ─┐
    slash commands (tree) ──────┼→ `sentence_for(error)` → a reply, or an ephemeral answer
    buttons and modals ─────────┘

What is our own bug is logged once, with a short reference that the person sees too.
"""

import difflib
import logging
import re
import secrets
from collections.abc import Awaitable, Iterable

import discord
from discord import app_commands
from discord.ext import commands

from bot.errors import BotError, NotAllowed, seconds
from bot.ui.replies import DISCORD_TROUBLE, Context, say, say_to
from bot.ui.text import inline

log = logging.getLogger(__name__)

_WRAPPERS = (
    commands.CommandInvokeError,
    commands.HybridCommandError,
    commands.ConversionError,
    app_commands.CommandInvokeError,
)
_IN_WORDS = {"manage_guild": "manage the server", "manage_messages": "manage messages"}


async def report(ctx: Context, error: Exception) -> None:
    """Tell the person who typed a command what went wrong."""
    error = unwrapped(error)
    if isinstance(error, commands.CommandNotFound):
        sentence = unknown_command(ctx)
    else:
        sentence = sentence_for(error, usage=_usage(ctx))
    if sentence:
        await _delivered(say(ctx, sentence, ephemeral=True))


async def report_interaction(interaction: discord.Interaction, error: Exception) -> None:
    """Tell the person who used a slash command, button or modal what went wrong; only they see it."""
    await _delivered(say_to(interaction, sentence_for(unwrapped(error))))


async def _delivered(saying: Awaitable[object]) -> None:
    """Await the sentence's way to the person; where even that fails there is nobody left to tell but the log."""
    try:
        await saying
    except DISCORD_TROUBLE as error:
        log.warning("could not say what went wrong: %s", error)


def unwrapped(error: Exception) -> Exception:
    """Take discord.py's wrapping off."""
    while isinstance(error, _WRAPPERS):
        inner = getattr(error, "original", None) or error.__cause__
        if not isinstance(inner, Exception):
            break
        error = inner
    return error


def sentence_for(error: Exception, usage: str = "") -> str:
    """Say what went wrong and what to do; an unexpected error is logged here, under the reference shown."""
    if isinstance(error, BotError):
        return str(error)
    hint = f" Use it like this: `{usage}`" if usage else ""
    known = _of_arguments(error, hint) or _of_permission(error) or _of_discord(error)
    if known:
        return known
    reference = secrets.token_hex(3)
    log.error("unexpected error, reference %s", reference, exc_info=error)
    return f"Something broke on my side. Try again; if it goes on, give the person who runs me this: `{reference}`."


def _of_arguments(error: Exception, hint: str) -> str:
    """Sentences for what was typed."""
    match error:
        case commands.MissingRequiredArgument(param=param):
            return f"I need the {inline(param.displayed_name or param.name)} too.{hint}"
        case commands.TooManyArguments():
            return f"That is more than this command takes.{hint}"
        case commands.BadArgument() | commands.UserInputError() | app_commands.TransformerError():
            return f"I could not read that.{hint}"
        case app_commands.CommandNotFound() | app_commands.CommandSignatureMismatch():
            return "This command has changed since your Discord last looked. Reload Discord (Ctrl+R), then try again."
        case _:
            return ""


def _of_permission(error: Exception) -> str:
    """Sentences for who may do what, where and how often."""
    match error:
        case (
            commands.MissingPermissions(missing_permissions=missing)
            | app_commands.MissingPermissions(missing_permissions=missing)
        ):
            return (
                str(NotAllowed())
                if "manage_guild" in missing
                else f"You need permission to {_named(missing)} for that."
            )
        case (
            commands.BotMissingPermissions(missing_permissions=missing)
            | app_commands.BotMissingPermissions(missing_permissions=missing)
        ):
            return (
                f"I lack the permission to {_named(missing)} here. Somebody who manages the server can give it to me."
            )
        case commands.NoPrivateMessage() | app_commands.NoPrivateMessage():
            return "That works only in a server, not in private messages."
        case commands.CommandOnCooldown(retry_after=wait) | app_commands.CommandOnCooldown(retry_after=wait):
            return f"Slow down a little: try again in {seconds(wait)}."
        case commands.MaxConcurrencyReached():
            return "That is already running. Wait until it is done, or stop it first."
        case commands.DisabledCommand():
            return "This command is switched off here."
        case commands.CheckFailure() | app_commands.CheckFailure():
            return "You may not do that here."
        case _:
            return ""


def _of_discord(error: Exception) -> str:
    """Sentences for what Discord refused."""
    match error:
        case discord.Forbidden():
            return "Discord does not let me do that here: I need permission to see this channel and to write in it."
        case discord.NotFound():
            return "That is gone from Discord by now."
        case discord.RateLimited(retry_after=wait):
            return f"Discord asks me to slow down. Try again in {seconds(wait)}."
        case discord.HTTPException(status=status) if status >= 500:
            return "Discord itself has trouble right now. Try again in a minute."
        case _:
            return ""


def unknown_command(ctx: Context) -> str:
    """Suggest the nearest command; empty for what was hardly meant as one, such as "!!!"."""
    name = ctx.invoked_with or ""
    if not re.fullmatch(r"[^\W\d_][\w-]*", name):
        return ""
    known = [command.name for command in ctx.bot.commands if not command.hidden]
    prefix = shown_prefix(ctx)
    nearest = nearest_name(name, known)
    suggestion = f" Did you mean `{prefix}{nearest}`?" if nearest else ""
    return f"There is no command `{prefix}{inline(name, 40)}`.{suggestion} `{prefix}help` lists what there is."


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Find the known name closest to a mistyped one, or None if nothing is close."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def shown_prefix(ctx: Context) -> str:
    """Give what stands before a command's name where this person typed: "!", "/" or "@Punchline "."""
    if ctx.interaction is not None:
        return "/"
    prefix = ctx.prefix or ""
    me = ctx.bot.user
    return f"@{me.display_name} " if me is not None and str(me.id) in prefix else prefix


def _usage(ctx: Context) -> str:
    command = ctx.command
    if command is None:
        return ""
    return f"{shown_prefix(ctx)}{command.qualified_name} {command.usage or command.signature}".rstrip()


def _named(permissions: Iterable[str]) -> str:
    return " and ".join(_IN_WORDS.get(name, name.replace("_", " ")) for name in permissions)
