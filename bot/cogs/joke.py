"""`joke`: tells a joke, about something if asked, with the model this server has trained."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs.best_of import BestOf, among
from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_command
from bot.cogs.model_words import gone
from bot.cogs.votes import VotesCog
from bot.config import BotSettings
from bot.errors import BadInput, ModelMissing
from bot.prompts import clean_topic, joke_prompt
from bot.service_client import CompletionRequest, CompletionStream, ServiceClient, user_key
from bot.ui.replies import Context
from bot.ui.streaming import Answers
from bot.ui.text import sanitise

log = logging.getLogger(__name__)

TOPIC_LIMIT = 100  # characters


class JokeCog(commands.Cog, name="Jokes"):
    """Tells jokes."""

    def __init__(
        self, settings: BotSettings, client: ServiceClient, answers: Answers, models: GuildModel, votes: VotesCog
    ) -> None:
        self._settings, self._client, self._answers, self._models = settings, client, answers, models
        self._votes = votes

    @hybrid_command("Tell a joke.", usage="[about something]")
    @app_commands.describe(topic="What it should be about; leave empty for any joke.")
    async def joke(self, ctx: Context, *, topic: str | None = None) -> None:
        """Tell a joke: `joke`, or `joke about cats`."""
        about = clean_topic(topic)
        if about is not None and len(about) > TOPIC_LIMIT:
            raise BadInput(f"That topic has {len(about)} characters; the most is {TOPIC_LIMIT}. A few words do best.")
        guild_id = ctx.guild.id if ctx.guild else None
        telling = Telling(await self._models.live(guild_id))
        asked = self._ask(telling, about, guild_id, ctx.author.id)

        async def ballot(text: str, message: discord.Message) -> discord.ui.View | None:
            return await self._votes.ballot(ctx, message.id, about, text, telling.model)

        await self._answers.stream(ctx, asked, telling.render, ballot)

    @asynccontextmanager
    async def _ask(
        self, telling: "Telling", topic: str | None, guild_id: int | None, asker_id: int
    ) -> AsyncIterator[CompletionStream | BestOf]:
        """Ask the server's model, or the default one where that is gone; several times if votes are to choose."""
        default, user = self._models.default, user_key(guild_id, asker_id)
        async with AsyncExitStack() as stack:
            request = self._request(telling.model, topic, user)
            try:
                stream = await stack.enter_async_context(self._client.complete(request))
            except ModelMissing:
                if telling.model == default:
                    raise
                log.warning("model %s is gone from the service; telling with %s", telling.model, default)
                request = self._request(default, topic, user)
                stream = await stack.enter_async_context(self._client.complete(request))
                telling.instead(default)
            more = self._settings.joke_candidates - 1
            taste = await self._votes.taste(guild_id) if more and self._settings.temperature else None
            if taste is None:
                yield stream
            else:
                candidates = among(stream, lambda: self._client.complete(request), more, taste)
                yield await stack.enter_async_context(candidates)

    def _request(self, model: str, topic: str | None, user: str) -> CompletionRequest:
        prompt = joke_prompt(model, topic)
        return CompletionRequest(
            model,
            prompt.text,
            max_tokens=self._settings.joke_max_tokens,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            stop=prompt.stop,
            user=user,
        )


class Telling:
    """A joke on its way, and the model that tells it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._note = ""

    def instead(self, default: str) -> None:
        """Remember that the model is gone and the default one tells the joke; the answer says so."""
        self._note = f"\n-# {gone(self.model, default)}"

    def render(self, text: str) -> str:
        """Make the text so far safe to show."""
        return sanitise(text.strip()) + self._note
