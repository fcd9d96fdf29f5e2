"""`joke`: tells a joke, about something if asked, with the model this server has trained."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from discord import app_commands
from discord.ext import commands

from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_command
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

    def __init__(self, settings: BotSettings, client: ServiceClient, answers: Answers, models: GuildModel) -> None:
        self._settings, self._client, self._answers, self._models = settings, client, answers, models

    @hybrid_command("Tell a joke.", usage="[about something]")
    @app_commands.describe(topic="What it should be about; leave empty for any joke.")
    async def joke(self, ctx: Context, *, topic: str | None = None) -> None:
        """Tell a joke: `joke`, or `joke about cats`."""
        about = clean_topic(topic)
        if about is not None and len(about) > TOPIC_LIMIT:
            raise BadInput(f"That topic has {len(about)} characters; the most is {TOPIC_LIMIT}. A few words do best.")
        guild_id = ctx.guild.id if ctx.guild else None
        telling = self._telling(await self._models.live(guild_id), about, user_key(guild_id, ctx.author.id))
        await self._answers.stream(ctx, telling, lambda text: sanitise(text.strip()))

    @asynccontextmanager
    async def _telling(self, model: str, topic: str | None, user: str) -> AsyncIterator[CompletionStream]:
        """Ask the server's model, or the default one where that is gone."""
        async with AsyncExitStack() as stack:
            try:
                stream = await stack.enter_async_context(self._client.complete(self._request(model, topic, user)))
            except ModelMissing:
                if model == self._models.default:
                    raise
                log.warning("model %s is gone from the service; telling with %s", model, self._models.default)
                request = self._request(self._models.default, topic, user)
                stream = await stack.enter_async_context(self._client.complete(request))
            yield stream

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
