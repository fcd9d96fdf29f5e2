import inspect
import logging

import discord
import pytest
from discord import app_commands
from discord.ext import commands

import bot.errors
from bot.errors import BotError, QueueFull, TooSlow
from bot.ui.failures import nearest_name, sentence_for, unwrapped
from bot.ui.replies import as_text


class Response:
    status, reason = 403, "Forbidden"


@app_commands.command()
async def a_command(interaction: discord.Interaction) -> None:
    """Nothing."""


def parameter(name: str) -> commands.Parameter:
    return commands.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (QueueFull(0.2), "Too many people are asking right now. Try again in 1 second."),
        (TooSlow(30), "The model took longer than 30 seconds, so I gave up. Try again in a minute."),
        (
            commands.MissingRequiredArgument(parameter("text")),
            "I need the text too. Use it like this: `!complete <text>`",
        ),
        (commands.TooManyArguments(), "That is more than this command takes."),
        (commands.BadArgument("x"), "I could not read that."),
        (commands.MissingPermissions(["manage_guild"]), "Only moderators"),
        (commands.MissingPermissions(["manage_messages"]), "You need permission to manage messages"),
        (app_commands.BotMissingPermissions(["embed_links"]), "I lack the permission to embed links"),
        (commands.NoPrivateMessage(), "only in a server"),
        (
            commands.CommandOnCooldown(commands.Cooldown(1, 5), 2.4, commands.BucketType.user),
            "Slow down a little: try again in 3 seconds.",
        ),
        (commands.MaxConcurrencyReached(1, commands.BucketType.user), "already running"),
        (app_commands.CommandNotFound("x", []), "Reload Discord"),
        (commands.CheckFailure("x"), "You may not do that here."),
        (discord.RateLimited(61.0), "Try again in 61 seconds."),
        (discord.Forbidden(Response(), "no"), "I need permission"),  # type: ignore[arg-type]
    ],
)
def test_every_failure_is_a_plain_sentence(error: Exception, sentence: str) -> None:
    assert sentence in sentence_for(error, usage="!complete <text>")


def test_an_unexpected_error_is_logged_under_the_reference_people_see(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError("secret detail")
    except ZeroDivisionError as error:
        with caplog.at_level(logging.ERROR):
            shown = sentence_for(error)
    reference = shown.split("`")[1]
    [record] = caplog.records
    assert reference in record.getMessage()
    assert record.exc_info
    assert "secret" not in shown


def test_wrapped_errors_are_unwrapped_to_what_happened() -> None:
    inner = QueueFull()
    assert unwrapped(commands.CommandInvokeError(inner)) is inner
    wrapped = commands.HybridCommandError(app_commands.CommandInvokeError(a_command, inner))
    assert unwrapped(wrapped) is inner


def test_the_nearest_command_is_suggested_and_nonsense_is_not() -> None:
    known = ["joke", "complete", "sentiment"]
    assert nearest_name("jok", known) == "joke"
    assert nearest_name("Sentimant", known) == "sentiment"
    assert nearest_name("weather", known) is None


def test_where_embeds_are_not_allowed_their_text_is_said() -> None:
    embed = discord.Embed(title="Models", description="one").add_field(name="a", value="b").set_footer(text="end")
    assert as_text(embed) == "**Models**\none\n**a**\nb\nend"


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    drawing = bot.errors.__doc__ or ""
    for name, kind in vars(bot.errors).items():
        if inspect.isclass(kind) and issubclass(kind, BotError):
            assert name in drawing
