"""The bot on stage: real discord.py, a real store, the playground, and a service to answer; two people to talk to it.

async with on_stage(service) as stage:
    await stage.robin.say("!joke")
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.app import PunchlineBot, create_bot
from bot.config import BotSettings, Settings
from bot.playground import Playground
from bot.playground.redirect import redirect
from bot.service_client import ServiceClient, Timeouts
from bot.store import Store
from model_service.config import TrainingSettings
from tests.support.people import Person, at_home


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything a test talks to. `robin` is a member, `morgan` a moderator."""

    bot: PunchlineBot
    store: Store
    client: ServiceClient
    playground: Playground
    robin: Person
    morgan: Person

    @property
    def guild_id(self) -> int:
        return int(self.playground.session.guild_id)


def make_settings(home: Path, **bot: Any) -> Settings:
    """Settings that are quick to be ready; `bot` changes the bot's section."""
    defaults: dict[str, Any] = {"edit_interval_s": 0.05, "guild_ready_timeout_s": 0.05, "answer_timeout_s": 10.0}
    return Settings(home=home, bot=BotSettings(**{**defaults, **bot}), discord_token=None)


@asynccontextmanager
async def on_stage(
    socket_path: Path,
    home: Path,
    *,
    message_content: bool = True,
    playground: Playground | None = None,
    auto_promote: bool = True,
    **bot: Any,
) -> AsyncIterator[Stage]:
    """Start everything, in the order a person would; end it in the other."""
    settings = make_settings(home, **bot)
    settings = settings.model_copy(update={"training": TrainingSettings(auto_promote=auto_promote)})
    limits = Timeouts(idle_s=settings.bot.answer_timeout_s)
    async with AsyncExitStack() as stack:
        if playground is None:
            playground = await stack.enter_async_context(Playground(port=0))
        stack.enter_context(redirect(playground.base_url))
        store = await stack.enter_async_context(await Store.open(home / "punchline.db"))
        client = await stack.enter_async_context(ServiceClient(socket_path, timeouts=limits))
        made = create_bot(settings, store, client, playground=True, message_content=message_content)
        await stack.enter_async_context(running(made, playground.bot_token))
        robin, morgan = await stack.enter_async_context(at_home(playground))
        yield Stage(made, store, client, playground, robin, morgan)


@asynccontextmanager
async def running(bot: PunchlineBot, token: str) -> AsyncIterator[None]:
    """Keep a bot connected while the block runs."""
    async with bot:
        await bot.login(token)
        task = asyncio.create_task(bot.connect(), name="bot under test")
        try:
            async with asyncio.timeout(10):
                await bot.wait_until_ready()
            yield
        finally:
            await bot.close()
            await asyncio.wait([task])
            task.result()
