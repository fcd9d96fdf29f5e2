"""Puts the bot together and runs it: discord.py with our cogs, against Discord or the playground, until told to stop.

run_bot ── Store, ServiceClient ── create_bot ── cogs ── Discord's gateway
                                      └── close code 4014: once more, without the message content intent
"""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from typing import Any, cast

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs.complete import CompleteCog
from bot.cogs.duel import DuelCog
from bot.cogs.guild_model import GuildModel
from bot.cogs.joke import JokeCog
from bot.cogs.library import LibraryCog
from bot.cogs.models import ModelsCog
from bot.cogs.privacy import PrivacyCog
from bot.cogs.sentiment import SentimentCog
from bot.cogs.settings import SettingsCog
from bot.cogs.training import TrainingCog
from bot.cogs.training_runs import Runs
from bot.cogs.training_watch import Watch
from bot.cogs.votes import VotesCog
from bot.cogs.withdrawals import Withdrawals
from bot.config import Settings
from bot.connection import connect
from bot.playground.redirect import redirect
from bot.service_client import ServiceClient, Timeouts
from bot.store import Store
from bot.store.errors import CannotOpen
from bot.ui.failures import report, report_interaction
from bot.ui.replies import Context, say_to
from bot.ui.streaming import Answers

log = logging.getLogger(__name__)

MAX_RATELIMIT_WAIT_S = 60.0
COMMAND_GRACE_S = 1.0
END_ROUNDS = 4
ORPHAN_AFTER_S = 2.2  # Discord gives up on an interaction after 3
ORPHANED = "This is from before my last restart, so I cannot use it any more. Please ask again."


class Tree(app_commands.CommandTree["PunchlineBot"]):
    """The slash commands; failures outside a hybrid command end here."""

    async def interaction_check(self, interaction: discord.Interaction["PunchlineBot"], /) -> bool:
        """Let everything through; the bot must know what runs, to end it in order."""
        interaction.client.track()
        return True

    async def on_error(self, interaction: discord.Interaction, error: app_commands.AppCommandError, /) -> None:
        """Say what went wrong."""
        await report_interaction(interaction, error)


class PunchlineBot(commands.Bot):
    """discord.py's bot with our manners: it pings nobody, ignores bots and webhooks, and never stays silent."""

    def __init__(self, settings: Settings, answers: Answers, *, message_content: bool) -> None:
        intents = discord.Intents.default()
        intents.message_content = message_content
        super().__init__(
            command_prefix=commands.when_mentioned_or(settings.bot.prefix),
            help_command=None,
            tree_cls=Tree,
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            case_insensitive=True,
            strip_after_prefix=True,
            guild_ready_timeout=settings.bot.guild_ready_timeout_s,
            max_ratelimit_timeout=MAX_RATELIMIT_WAIT_S,
        )
        self._settings, self._answers = settings, answers
        self.parts: list[commands.Cog] = []
        self._running: set[asyncio.Task[Any]] = set()

    async def setup_hook(self) -> None:
        """Add the cogs, then tell Discord which slash commands there are."""
        for cog in self.parts:
            await self.add_cog(cog)
        if self._settings.bot.sync_commands:
            synced = await self.tree.sync()
            log.info("registered %d slash commands", len(synced))

    async def close(self) -> None:
        """End growing answers and running commands while Discord can still be told, then disconnect."""
        if not self.is_closed():
            await self._answers.close()
            await self._end_commands()
        await super().close()

    def track(self) -> None:
        """Remember the current task until it is done."""
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _end_commands(self) -> None:
        """Give commands and their errors a moment to end by themselves, then cancel them."""
        own = {asyncio.current_task()}
        for _ in range(END_ROUNDS):
            if not (tasks := self._running - own):
                return
            _, late = await asyncio.wait(tasks, timeout=COMMAND_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.sleep(0)  # the event that tells of an error starts here

    async def on_ready(self) -> None:
        """Log who we are and how many servers we are in."""
        log.info("connected as %s, in %d servers", self.user, len(self.guilds))

    async def on_message(self, message: discord.Message, /) -> None:
        """Run commands of people; a bare mention is a call for help."""
        self.track()
        if message.author.bot or message.webhook_id is not None or self.user is None:
            return
        if message.content.strip() in (f"<@{self.user.id}>", f"<@!{self.user.id}>"):
            help_command = self.get_command("help")
            ctx = await self.get_context(message)
            if help_command is not None:
                await ctx.invoke(cast("commands.Command[Any, ..., Any]", help_command))
            return
        try:
            await self.process_commands(message)
        except Exception as error:  # a check broke: discord.py lets only its own errors reach on_command_error
            await report(await self.get_context(message), error)

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        """A deleted question or answer needs no more tokens."""
        self._answers.message_deleted(event.message_id)

    async def on_raw_bulk_message_delete(self, event: discord.RawBulkMessageDeleteEvent) -> None:
        """The same, many at a time."""
        for message_id in event.message_ids:
            self._answers.message_deleted(message_id)

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        """Answer for buttons and forms that nobody waits for any more, before Discord calls them failed."""
        if interaction.type in (discord.InteractionType.component, discord.InteractionType.modal_submit):
            await asyncio.sleep(ORPHAN_AFTER_S)
            if not interaction.response.is_done():
                await say_to(interaction, ORPHANED)

    async def on_command_error(self, ctx: Context, error: commands.CommandError, /) -> None:  # type: ignore[override]
        """Say what went wrong."""
        self.track()
        await report(ctx, error)

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        """Log a listener's bug; there is nobody to tell."""
        log.exception("listener %s failed", event_method)


def create_bot(
    settings: Settings, store: Store, client: ServiceClient, *, playground: bool, message_content: bool = True
) -> PunchlineBot:
    """Put a bot together; nothing is sent yet. The store and the client stay the caller's to close."""
    answers = Answers(edit_interval_s=settings.bot.edit_interval_s, timeout_s=settings.bot.answer_timeout_s)
    bot = PunchlineBot(settings, answers, message_content=message_content)
    models = GuildModel(store, settings.bot.joke_model)
    watch = Watch(
        store,
        client,
        models,
        bot,
        poll_interval_s=settings.bot.edit_interval_s,
        auto_promote=settings.training.auto_promote,
    )
    votes = VotesCog(store, bot)
    runs = Runs(store, client, models, watch, playground=playground)
    bot.parts = [
        votes,
        JokeCog(settings.bot, client, answers, models, votes),
        CompleteCog(settings.bot, client, answers),
        SentimentCog(settings.bot, client),
        LibraryCog(store),
        TrainingCog(store, client, models, runs, bot),
        DuelCog(settings.bot, store, client, models, bot),
        ModelsCog(client, models),
        SettingsCog(settings.bot, client, models, message_content=message_content, playground=playground),
        PrivacyCog(store, Withdrawals(store, client, models, bot), runs, bot),
    ]
    return bot


async def run_bot(settings: Settings, playground_url: str | None = None) -> None:
    """Run until SIGTERM or SIGINT. Raises discord.LoginFailure for a token that Discord refuses."""
    assert settings.discord_token is not None, "the caller checks that there is a token"
    token = settings.discord_token.get_secret_value()
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        try:
            path, permission = settings.home / "punchline.db", settings.training.discord_permission
            store = await stack.enter_async_context(await Store.open(path, permission))
        except CannotOpen as error:
            log.critical("%s", error)
            raise SystemExit(2) from None
        limits = Timeouts(idle_s=settings.bot.answer_timeout_s)
        client = await stack.enter_async_context(connect(settings, limits))
        stack.enter_context(_stopped_by_signals(stop))
        stack.enter_context(_at(playground_url))
        for message_content in (True, False):
            bot = create_bot(
                settings, store, client, playground=playground_url is not None, message_content=message_content
            )
            if await _run_until(bot, token, stop):
                return
            log.warning(
                "Discord refuses the message content intent: going on without it. Slash commands, mentions and private"
                " messages work. To read %s commands too, switch it on: https://discord.com/developers/applications,"
                " your application, Bot, Privileged Gateway Intents.",
                settings.bot.prefix,
            )


async def _run_until(bot: PunchlineBot, token: str, stop: asyncio.Event) -> bool:
    """Run one bot until told to stop; False when Discord refuses the message content intent."""
    async with bot:
        running = asyncio.create_task(bot.start(token), name="discord")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            return True
        except discord.PrivilegedIntentsRequired:
            if bot.intents.message_content:
                return False
            raise
        finally:
            for task in (running, stopping):
                task.cancel()
            await asyncio.wait([running, stopping])
            log.info("disconnected from Discord")


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _at(playground_url: str | None) -> AbstractContextManager[None]:
    if playground_url is None:
        return nullcontext()
    return redirect(playground_url)
