"""A small, real discord.py bot, and the stage it plays on."""

import asyncio
import contextlib
import io
import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import discord
from discord import app_commands
from discord.ext import commands

from bot.playground import Playground
from bot.playground.redirect import redirect
from tests.support.people import Person, at_home


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG = (  # 2 by 3 pixels of amber
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 3, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress((b"\0" + b"\xf2\xb8\x4b" * 2) * 3))
    + _chunk(b"IEND", b"")
)


class JokeForm(discord.ui.Modal, title="Add a joke"):
    joke: discord.ui.TextInput["JokeForm"] = discord.ui.TextInput(label="Joke", max_length=200)
    consent: discord.ui.Label["JokeForm"] = discord.ui.Label(
        text="Train on it?",
        component=discord.ui.Select(options=[discord.SelectOption(label="Yes"), discord.SelectOption(label="No")]),
    )

    async def on_submit(self, interaction: discord.Interaction) -> None:
        assert isinstance(self.consent.component, discord.ui.Select)
        await interaction.response.send_message(f"Kept: {self.joke.value} ({self.consent.component.values[0]})")


class Buttons(discord.ui.View):
    @discord.ui.button(label="Another")
    async def another(self, interaction: discord.Interaction, button: discord.ui.Button["Buttons"]) -> None:
        await interaction.response.edit_message(content="Another one")

    @discord.ui.button(label="Secret")
    async def secret(self, interaction: discord.Interaction, button: discord.ui.Button["Buttons"]) -> None:
        await interaction.response.send_message("Only for you", ephemeral=True)

    @discord.ui.select(options=[discord.SelectOption(label="Puns"), discord.SelectOption(label="One-liners")])
    async def kind(self, interaction: discord.Interaction, select: discord.ui.Select["Buttons"]) -> None:
        await interaction.response.send_message(f"You like {select.values[0]}")


class Comedy(commands.Cog):
    def __init__(self) -> None:
        self.heard: list[discord.Message] = []
        self.reactions: list[tuple[str, str]] = []
        self.interactions: list[discord.Interaction] = []

    @commands.Cog.listener()
    async def on_message(self, message: discord.Message) -> None:
        self.heard.append(message)

    @commands.Cog.listener()
    async def on_interaction(self, interaction: discord.Interaction) -> None:
        self.interactions.append(interaction)

    @commands.Cog.listener()
    async def on_raw_reaction_add(self, event: discord.RawReactionActionEvent) -> None:
        assert event.member is not None
        self.reactions.append((event.member.display_name, str(event.emoji)))

    @commands.hybrid_command()
    async def joke(self, ctx: commands.Context[commands.Bot], about: str = "cats") -> None:
        """Tell a joke."""
        await ctx.defer()
        message = await ctx.send(f"A joke about {about}", view=Buttons())
        await message.edit(content=f"A long joke about {about}")

    @commands.hybrid_command()
    async def paint(self, ctx: commands.Context[commands.Bot]) -> None:
        """Send a picture in an embed."""
        embed = discord.Embed(title="Chart", colour=0x57C78A).set_image(url="attachment://chart.png")
        embed.add_field(name="jokes", value="12")
        await ctx.reply(embed=embed, file=discord.File(io.BytesIO(PNG), "chart.png", description="Twelve"))

    @commands.hybrid_command()
    @commands.has_permissions(manage_guild=True)
    async def train(self, ctx: commands.Context[commands.Bot]) -> None:
        """Only for moderators."""
        await ctx.send("Training")

    @train.error
    async def no_training(self, ctx: commands.Context[commands.Bot], error: Exception) -> None:
        await ctx.send("You need Manage Server for that", ephemeral=True)

    @app_commands.command()
    async def addjoke(self, interaction: discord.Interaction) -> None:
        """Add a joke in a form."""
        await interaction.response.send_modal(JokeForm())

    @app_commands.command()
    async def model(self, interaction: discord.Interaction, name: str) -> None:
        """Choose a model."""
        await interaction.response.send_message(f"Now {name}")

    @model.autocomplete("name")
    async def names(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        known = ["jokes-mini", "gpt2", "gpt2-xl"]
        return [app_commands.Choice(name=name, value=name) for name in known if name.startswith(typed)]

    @app_commands.command()
    async def silent(self, interaction: discord.Interaction) -> None:
        """Never answer."""

    @app_commands.command()
    async def who(self, interaction: discord.Interaction, member: discord.Member, shout: bool = False) -> None:
        """Say something about a member."""
        manages = interaction.permissions.manage_guild
        await interaction.response.defer(thinking=True, ephemeral=True)
        await interaction.followup.send(f"{member.display_name} {member.top_role.name} {shout} {manages}")


def make_bot(**intents: bool) -> commands.Bot:
    chosen = discord.Intents.all()
    for name, wanted in intents.items():
        setattr(chosen, name, wanted)
    return commands.Bot(
        commands.when_mentioned_or("!"),
        intents=chosen,
        help_command=None,
        guild_ready_timeout=0.05,
        allowed_mentions=discord.AllowedMentions.none(),
    )


@contextlib.asynccontextmanager
async def running(bot: commands.Bot, playground: Playground) -> AsyncIterator[commands.Bot]:
    """The bot, ready and with its commands registered."""
    ready = asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    bot.add_listener(on_ready)
    with redirect(playground.base_url):
        task = asyncio.create_task(bot.start(playground.bot_token), name="bot under test")
        waiting = asyncio.create_task(ready.wait(), name="ready")
        try:
            async with asyncio.timeout(5):
                await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task  # raises what went wrong
            await bot.tree.sync()
            yield bot
        finally:
            waiting.cancel()
            await bot.close()
            await asyncio.wait([task])


@dataclass(frozen=True)
class Stage:
    """Everything a test needs."""

    playground: Playground
    bot: commands.Bot
    comedy: Comedy
    robin: Person
    morgan: Person


@contextlib.asynccontextmanager
async def open_stage(**intents: bool) -> AsyncIterator[Stage]:
    """A playground with both people and the bot: `async with open_stage() as stage`."""
    bot, comedy = make_bot(**intents), Comedy()
    await bot.add_cog(comedy)
    async with (
        Playground(port=0) as playground,
        at_home(playground) as (robin, morgan),
        running(bot, playground),
    ):
        yield Stage(playground, bot, comedy, robin, morgan)
