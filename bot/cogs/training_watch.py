"""Watches one fine-tune from its first step to its end and keeps one message telling how it goes.

A watch needs nothing but the job's row in the store, so it goes on after a restart of the bot, and waits out a restart
of the service. What passes the gate becomes the server's joke model; what does not changes nothing. In the end the
message becomes the card by which moderators judge (`bot.ui.training_card`).
"""

import asyncio
import io
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import discord

from bot.cogs import training_words as words
from bot.cogs.guild_model import GuildModel
from bot.cogs.training_decisions import Decisions
from bot.errors import BotError, RequestFailed
from bot.service_client import Json, ServiceClient
from bot.store import Job, Outcome, Store
from bot.ui import training_card
from bot.ui.replies import DISCORD_TROUBLE
from bot.ui.text import MESSAGE_LIMIT

log = logging.getLogger(__name__)

ENDED = frozenset({"succeeded", "failed", "cancelled"})
PICTURE = "losses.png"
LAST_TRIES = 8  # to show how it ended, each after twice the wait


class Channels(Protocol):
    """Where a channel can be written to by its id, whether or not it is cached."""

    def get_partial_messageable(self, id: int, /) -> discord.PartialMessageable: ...  # noqa: D102

    def get_channel(self, id: int, /) -> Any:
        """Return the channel if it is cached, with what the bot may do there."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the message reads; the rest comes with the end of a job that made a model."""

    content: str
    embed: discord.Embed | None = None
    png: bytes | None = None
    alt: str = ""
    view: discord.ui.View | None = None

    def parts(self) -> dict[str, Any]:
        """Return what discord.py sends; a file can be sent once, so this is asked for each time."""
        parts: dict[str, Any] = {"content": self.content[:MESSAGE_LIMIT]}
        if self.embed is not None:
            parts["embed"] = self.embed
        if self.view is not None:
            parts["view"] = self.view
        return parts

    def files(self) -> list[discord.File]:
        """Return the picture to attach, if there is one."""
        return [] if self.png is None else [discord.File(io.BytesIO(self.png), PICTURE, description=self.alt)]


class Watch:
    """Follows jobs; one `follow` per job."""

    def __init__(
        self,
        store: Store,
        client: ServiceClient,
        models: GuildModel,
        channels: Channels,
        *,
        poll_interval_s: float,
        auto_promote: bool,
    ) -> None:
        self._store, self._client, self._models, self._channels = store, client, models, channels
        self._decisions = Decisions(store, client, models)
        self._poll_interval_s, self._auto_promote = poll_interval_s, auto_promote

    async def follow(self, job: Job) -> None:
        """Poll and show until the job has ended and its outcome is recorded."""
        board = _Board(self._channels, self._store, job)
        while True:
            try:
                state = await self._client.job(job.job_id)
            except RequestFailed as error:
                if error.status == 404:
                    await self._store.jobs.finish(job.job_id, "lost", None)
                    await self._show_last(board, Shown(words.lost(job.job_id)))
                    return
                log.warning("job %s could not be read: %s", job.job_id, error.code)
            except BotError:
                await board.show(Shown(words.AWAY))
            else:
                if state.get("status") in ENDED:
                    await self._show_last(board, await self._end(job, state))
                    return
                await board.show(Shown(words.progress(state)))
            await asyncio.sleep(self._poll_interval_s)

    async def _show_last(self, board: "_Board", shown: Shown) -> None:
        """The end must be seen, so trouble with Discord is waited out for a while."""
        wait_s = self._poll_interval_s
        for _ in range(LAST_TRIES):
            if await board.show(shown):
                return
            await asyncio.sleep(wait_s)
            wait_s *= 2

    async def _end(self, job: Job, state: Json) -> Shown:
        """Act on the outcome, record it, and say what it means. Doing it twice is doing it once."""
        status, model_id = str(state["status"]), state.get("fine_tuned_model")
        now = state.get("punchline") or {}
        passed = bool((now.get("gate") or {}).get("passed"))
        before = await self._models.live(job.guild_id)
        if await self._store.lineage.is_withdrawn(job.job_id):
            await self._store.jobs.finish(job.job_id, status, model_id, outcome(now, None))
            return Shown(words.withdrawn(state, before))
        if status == "cancelled" or status == "failed" or not model_id:
            shown = Shown((words.cancelled if status == "cancelled" else words.failed)(state, before))
            await self._store.jobs.finish(job.job_id, status, None, outcome(now, None))
        else:
            content = (
                await self._judge(job, state, str(model_id), before) if passed else words.not_better(state, before)
            )
            await self._store.jobs.finish(job.job_id, status, str(model_id), outcome(now, passed))
            shown = await self._card(job, state, content, passed=passed)
        log.info("job %s ended: %s, gate %s", job.job_id, status, "passed" if passed else "not passed")
        return shown

    async def _judge(self, job: Job, state: Json, model_id: str, live: str) -> str:
        """Use what passed the gate, unless people are to decide, or chose another model meanwhile."""
        compared = job.started_from or live
        if live != model_id and (live != compared or not self._auto_promote):
            return words.better(state, job.number, compared, live)
        before = await self._models.use(job.guild_id, model_id)
        await self._store.jobs.decide(job.job_id, "promoted", None)
        return words.better_and_used(state, compared if before == model_id else before)

    async def _card(self, job: Job, state: Json, content: str, *, passed: bool) -> Shown:
        """Add figures, samples, curves and buttons, as far as the channel allows."""
        may_embed, may_attach = self._may(job.channel_id)
        if not may_embed:
            content = f"{content}\n{training_card.table(state)}"
        png, alt = await self._curves(job, draw=may_attach)
        if alt and png is None:
            content = f"{content}\n-# {alt}"
        ended = next(each for each in await self._store.jobs.history(job.guild_id) if each.job_id == job.job_id)
        actions = await self._decisions.actions(ended)
        return Shown(
            content,
            training_card.embed(state, passed=passed, image=PICTURE if png else None) if may_embed else None,
            png,
            alt,
            training_card.drawn(actions, passed=passed),
        )

    async def _curves(self, job: Job, *, draw: bool) -> tuple[bytes | None, str]:
        """Return the curves as a picture and in words; neither where the service cannot tell them."""
        try:
            curves = training_card.curves(await self._client.job_events(job.job_id))
        except BotError as error:
            log.warning("no curves of %s: %s", job.job_id, type(error).__name__)
            return None, ""
        if not curves.is_worth_drawing:
            return None, ""
        told = training_card.describe(curves)
        return await asyncio.to_thread(training_card.picture, curves) if draw else None, told

    def _may(self, channel_id: int) -> tuple[bool, bool]:
        """Say whether embeds and files can be shown in a channel; one that is not cached is thought to allow both."""
        channel = self._channels.get_channel(channel_id)
        if channel is None or channel.guild.me is None:
            return True, True
        permissions = channel.permissions_for(channel.guild.me)
        return permissions.embed_links, permissions.attach_files


def outcome(now: Json, passed: bool | None) -> Outcome:
    """Take from a job's figures what its history keeps."""
    counts = now.get("counts") or {}
    return Outcome(counts.get("train"), now.get("val_loss_before"), now.get("val_loss_after"), passed)


class _Board:
    """The one message of a job; written anew if somebody deleted it."""

    def __init__(self, channels: Channels, store: Store, job: Job) -> None:
        self._channel = channels.get_partial_messageable(job.channel_id)
        self._store, self._job = store, job
        self._message_id = job.message_id
        self._shown = ""

    async def show(self, shown: Shown) -> bool:
        """Make the message read this; a Discord that refuses is logged, and the next time may work."""
        if shown.view is None and shown.content == self._shown:
            return True
        try:
            await self._write(shown)
        except DISCORD_TROUBLE as error:
            log.warning("the progress of %s could not be shown: %s", self._job.job_id, error)
            return False
        self._shown = shown.content
        return True

    async def _write(self, shown: Shown) -> None:
        if self._message_id is not None:
            try:
                message = self._channel.get_partial_message(self._message_id)
                await message.edit(**shown.parts(), attachments=shown.files())
                return
            except discord.NotFound:
                self._message_id = None
        self._message_id = (await self._channel.send(**shown.parts(), files=shown.files())).id
        job = self._job
        await self._store.jobs.record(job.guild_id, job.job_id, job.channel_id, self._message_id, job.started_by)
