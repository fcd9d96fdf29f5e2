"""`duel`: two models answer the same question as A and B, people vote blind, and the end says who was who.

    ask both ─ shuffle ─ message ─ stored ─ votes ─> closed after enough votes or at its time ─> revealed

A duel lives in the store, so it goes on after a restart of the bot: its buttons, its clock and its end.
"""

import asyncio
import logging
import secrets
import time
from typing import Protocol

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs import duel_words as words
from bot.cogs import model_words
from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_command
from bot.config import BotSettings
from bot.errors import BadInput, BotError, TooSlow
from bot.prompts import clean_topic, joke_prompt
from bot.service_client import CompletionRequest, Json, ServiceClient, user_key
from bot.store import Choice, Duel, DuelOpen, Store
from bot.ui import ballot
from bot.ui.replies import DISCORD_TROUBLE, Context, say, say_to
from bot.ui.views import Interaction

log = logging.getLogger(__name__)

TOPIC_LIMIT = 100  # characters
TRIES = 3  # seeds that are tried until the two say something, and not the same
REVEAL_TRIES = 8  # each after twice the wait
SUGGESTION_LIMIT_S = 2.0  # Discord waits 3


class Discord(Protocol):
    """What duels need of discord.py's client."""

    def add_view(self, view: discord.ui.View, /) -> None: ...  # noqa: D102
    def get_partial_messageable(self, id: int, /) -> discord.PartialMessageable: ...  # noqa: D102


class DuelCog(commands.Cog, name="Duels"):
    """Holds blind duels, one at a time in a channel."""

    def __init__(
        self, settings: BotSettings, store: Store, client: ServiceClient, models: GuildModel, discord_client: Discord
    ) -> None:
        self._settings, self._store, self._client, self._models = settings, store, client, models
        self._discord = discord_client
        self._asking: set[int] = set()  # channels in which two models are being asked
        self._news: dict[int, asyncio.Event] = {}  # by duel: somebody voted
        self._keeping: set[asyncio.Task[None]] = set()

    async def cog_load(self) -> None:
        """Answer the buttons of every duel there is, and go on with what was open when the bot stopped."""
        self._discord.add_view(ballot.BallotView(self._vote))
        for duel in await self._store.duels.unrevealed():
            self._keep(duel)

    async def cog_unload(self) -> None:
        """Stop keeping the time; the duels go on with the next start."""
        tasks = set(self._keeping)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @hybrid_command("Let two models tell a joke anonymously, and vote.", usage="[model] [model] [about something]")
    @app_commands.describe(
        first="A model; left out: the one that tells jokes here.",
        second="Another; left out: the one it was trained from.",
        topic="What it should be about; leave empty for any joke.",
    )
    async def duel(
        self, ctx: Context, first: str | None = None, second: str | None = None, *, topic: str | None = None
    ) -> None:
        """Let two models tell a joke as A and B; people vote, and the end says who was who."""
        if ctx.guild is None:
            raise commands.NoPrivateMessage
        names, about = split(first, second, topic)
        if about is not None and len(about) > TOPIC_LIMIT:
            raise BadInput(f"That topic has {len(about)} characters; the most is {TOPIC_LIMIT}. A few words do best.")
        if ctx.channel.id in self._asking:
            raise DuelOpen
        self._asking.add(ctx.channel.id)
        try:
            if await self._store.duels.open_in(ctx.channel.id) is not None:
                raise DuelOpen
            async with ctx.typing():
                models = await self._choose(ctx.guild.id, names)
                models = (models[0], models[1]) if secrets.randbits(1) else (models[1], models[0])
                texts = await self._ask(models, about, user_key(ctx.guild.id, ctx.author.id))
            message = await say(ctx, words.opened(about or "", texts))
            duel = await self._store.duels.open(
                ctx.guild.id,
                ctx.channel.id,
                message.id,
                about or "",
                models,
                texts,
                votes_wanted=self._settings.duel_votes,
                lasts_s=self._settings.duel_s,
            )
            self._keep(duel)  # the buttons come with it, now that a vote can be counted
        finally:
            self._asking.discard(ctx.channel.id)

    @duel.autocomplete("first")
    @duel.autocomplete("second")
    async def suggest(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """Offer the models that can tell jokes here; nothing while the service does not answer."""
        try:
            async with asyncio.timeout(SUGGESTION_LIMIT_S):
                cards = await self._cards(interaction.guild_id)
                live = await self._models.live(interaction.guild_id)
        except (BotError, TimeoutError) as error:
            log.warning("no models to suggest: %s", type(error).__name__)
            return []
        offered = model_words.choices(cards, typed, live)
        return [app_commands.Choice(name=label, value=model) for label, model in offered]

    async def _choose(self, guild_id: int, names: list[str]) -> tuple[str, str]:
        """Name the two: those that were asked for, else the live one and its base."""
        cards, live = await self._cards(guild_id), await self._models.live(guild_id)
        chosen = [str(model_words.choose(cards, name.strip("`"))["id"]) for name in names]
        if not chosen:
            chosen = [str(model_words.choose(cards, live)["id"])]
        if len(chosen) == 1:
            base = base_of(chosen[0], {str(card["id"]) for card in cards}, self._models.default)
            chosen.append(live if names and live != chosen[0] else base)
        if chosen[0] == chosen[1]:
            own = f"{model_words.code(live)} tells this server's jokes and was not trained here, so there is no other."
            why = "A model cannot duel with itself." if names else own
            raise BadInput(f"{why} Name two: `/duel first second`; `/models` lists them.")
        return chosen[0], chosen[1]

    async def _cards(self, guild_id: int | None) -> list[Json]:
        """What this server may know of: another server's tuned models are none of its business."""
        cards = await self._client.models()
        return [card for card in cards if model_words.owner_of(str(card["id"])) in (None, str(guild_id))]

    async def _ask(self, models: tuple[str, str], topic: str | None, user: str) -> tuple[str, str]:
        """Let both answer, with the same seed; another seed where one says nothing or both say the same."""
        for _ in range(TRIES):
            seed = secrets.randbelow(2**31)
            tasks = [asyncio.create_task(self._answer(model, topic, user, seed)) for model in models]
            try:
                one, other = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            if one and other and one != other:
                return one, other
        raise BadInput("The two had nothing different to say. Try again, or about something else.")

    async def _answer(self, model: str, topic: str | None, user: str, seed: int) -> str:
        settings, prompt = self._settings, joke_prompt(model, topic)
        request = CompletionRequest(
            model,
            prompt.text,
            max_tokens=settings.joke_max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=prompt.stop,
            seed=seed,
            user=user,
        )
        try:
            async with asyncio.timeout(settings.answer_timeout_s), self._client.complete(request) as stream:
                parts = [update.text async for update in stream]
        except TimeoutError as error:
            raise TooSlow(settings.answer_timeout_s) from error
        return "".join(parts).strip()

    async def _vote(self, interaction: Interaction, choice: Choice) -> None:
        """Count a vote, or change it; only the voter sees that."""
        assert interaction.message is not None
        duel = await self._store.duels.of_message(interaction.message.id)
        if duel is None or duel.guild_id != interaction.guild_id:
            raise BadInput("I know nothing of this duel any more. `/duel` begins another.")
        if await self._store.duels.vote(duel.id, interaction.user.id, choice) is None:
            raise BadInput("This duel is over, so your vote does not count any more.")
        await say_to(interaction, f"🗳️ Your vote is for **{choice}**. Until the duel ends the other button changes it.")
        if (news := self._news.get(duel.id)) is not None:
            news.set()

    def _keep(self, duel: Duel) -> None:
        task = asyncio.create_task(self._keep_time(duel), name=f"duel-{duel.id}")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep_time(self, duel: Duel) -> None:
        """Show how many have voted until there are enough or the time is up; then close, and say who was who."""
        news = self._news[duel.id] = asyncio.Event()
        try:
            while duel.votes is None and (left := duel.ends_at - time.time()) > 0:
                if (num_votes := await self._store.duels.count(duel.id)) >= duel.votes_wanted:
                    break
                await self._show(duel, words.running(duel, num_votes))
                await asyncio.sleep(min(left, self._settings.edit_interval_s))
                try:
                    async with asyncio.timeout(max(0.0, duel.ends_at - time.time())):
                        await news.wait()
                except TimeoutError:
                    break
                news.clear()
            await self._reveal(await self._store.duels.close(duel.id))
        except Exception:
            log.exception("duel %d could not be kept; it goes on with the next start", duel.id)
        finally:
            del self._news[duel.id]

    async def _reveal(self, duel: Duel) -> None:
        """The end must be seen, so trouble with Discord is waited out for a while."""
        record = await self._store.duels.record(duel.guild_id, *duel.models)
        wait_s = self._settings.edit_interval_s
        for _ in range(REVEAL_TRIES):
            if await self._show(duel, words.ended(duel, record)):
                await self._store.duels.revealed(duel.id)
                log.info("duel %d ended: %s", duel.id, duel.votes)
                return
            await asyncio.sleep(wait_s)
            wait_s *= 2

    async def _show(self, duel: Duel, content: str) -> bool:
        """Make the message read this; True also where it is gone or may not be written any more."""
        message = self._discord.get_partial_messageable(duel.channel_id).get_partial_message(duel.message_id)
        try:
            await message.edit(content=content, view=ballot.drawn() if duel.votes is None else None)
        except (discord.NotFound, discord.Forbidden) as error:
            log.warning("duel %d has no message any more: %s", duel.id, error)
        except DISCORD_TROUBLE as error:
            log.warning("duel %d could not be shown: %s", duel.id, error)
            return False
        return True


def split(first: str | None, second: str | None, topic: str | None) -> tuple[list[str], str | None]:
    """Tell models from a topic: typed with a prefix, `duel about cats` has its words where models would stand."""
    typed = [word for word in (first, second) if word]
    at = next((i for i, word in enumerate(typed) if word.lower() == "about"), None)
    if at is None:
        return typed, clean_topic(topic)
    return typed[:at], clean_topic(" ".join([*typed[at:], topic or ""]))


def base_of(model: str, known: set[str], default: str) -> str:
    """Name the model that a tuned one was trained from (`ft:<base>:…`), or the default where that is not known."""
    parts = model.split(":")
    return parts[1] if parts[0] == "ft" and len(parts) >= 4 and parts[1] in known else default
