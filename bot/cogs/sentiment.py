"""`sentiment`: reads the mood of a text, or of the message replied to, and shows how sure it is."""

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs.hybrid import hybrid_command
from bot.config import BotSettings
from bot.errors import BadInput
from bot.service_client import Mood, ServiceClient
from bot.ui.replies import Context, say
from bot.ui.text import inline

LABELS = ("negative", "neutral", "positive")  # by label id, as sentiment-mini has them
EMOJI = {"positive": "😊", "negative": "😞", "neutral": "😐"}
COLOURS = {"positive": 0x3BA55C, "negative": 0xED4245, "neutral": 0x99AAB5}
BAR_CELLS = 12


class SentimentCog(commands.Cog, name="Mood"):
    """Reads moods."""

    def __init__(self, settings: BotSettings, client: ServiceClient) -> None:
        self._settings, self._client = settings, client

    @hybrid_command("Read the mood of a text, or of the message you reply to.", usage="<text>")
    @app_commands.describe(text="The text to read.")
    async def sentiment(self, ctx: Context, *, text: str = "") -> None:
        """Read a mood: `sentiment I love this`, or reply to a message with `sentiment`."""
        text = text.strip() or replied_text(ctx)
        if not text:
            raise BadInput("I need a text, such as “I love this”. You can also reply to a message with this command.")
        async with ctx.typing():
            mood = await self._client.classify(self._settings.sentiment_model, text)
        await say(ctx, headline(mood), embed=picture(mood, text))


def replied_text(ctx: Context) -> str:
    """Return what the message replied to says, or nothing."""
    reference = ctx.message.reference if ctx.interaction is None else None
    replied = reference.resolved if reference else None
    return replied.content.strip() if isinstance(replied, discord.Message) else ""


def headline(mood: Mood) -> str:
    """The answer in one line."""
    return f"{EMOJI.get(mood.label, '🔎')} **{inline(mood.label, 60)}** · {max(mood.probs):.0%} sure"


def picture(mood: Mood, text: str) -> discord.Embed:
    """Every label with its share as a bar."""
    names = label_names(mood)
    width = max(len(name) for name in names)
    rows = [f"{name:<{width}}  {bar(share)} {share:>4.0%}" for name, share in zip(names, mood.probs, strict=True)]
    embed = discord.Embed(description="```\n" + "\n".join(rows) + "\n```", colour=COLOURS.get(mood.label, 0x5865F2))
    return embed.set_footer(text=f"“{inline(text, 120)}”")


def label_names(mood: Mood) -> list[str]:
    """Name every label: as the service does, as our own model has them, or by number."""
    if len(mood.labels) == len(mood.probs):
        return [inline(name, 20) for name in mood.labels]
    best = mood.probs.index(max(mood.probs))
    if len(mood.probs) == len(LABELS) and LABELS[best] == mood.label:
        return list(LABELS)
    return [inline(mood.label, 20) if place == best else f"label {place}" for place in range(len(mood.probs))]


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """Draw a share between 0 and 1."""
    filled = round(min(max(share, 0.0), 1.0) * cells)
    return "█" * filled + "░" * (cells - filled)
