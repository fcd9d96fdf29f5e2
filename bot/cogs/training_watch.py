"""Watches one fine-tune from its first step to its end and keeps one message telling how it goes.

A watch needs nothing but the job's row in the store, so it goes on after a restart of the bot, and waits out a restart
of the service. What passes the gate becomes the server's joke model; what does not changes nothing.
"""

import asyncio
import logging
from typing import Protocol

import discord

from bot.cogs import training_words as words
from bot.cogs.guild_model import GuildModel
from bot.errors import BotError, RequestFailed
from bot.service_client import Json, ServiceClient
from bot.store import Job, Store
from bot.ui.replies import DISCORD_TROUBLE

log = logging.getLogger(__name__)

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Channels(Protocol):
    """Where a channel can be written to by its id, whether or not it is cached."""

    def get_partial_messageable(self, id: int, /) -> discord.PartialMessageable: ...  # noqa: D102


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
                    await board.show(words.lost(job.job_id))
                    return
                log.warning("job %s could not be read: %s", job.job_id, error.code)
            except BotError:
                await board.show(words.AWAY)
            else:
                if state.get("status") in ENDED:
                    await board.show(await self._end(job, state))
                    return
                await board.show(words.progress(state))
            await asyncio.sleep(self._poll_interval_s)

    async def _end(self, job: Job, state: Json) -> str:
        """Act on the outcome, record it, and say what it means. Doing it twice is doing it once."""
        status, model_id = str(state["status"]), state.get("fine_tuned_model")
        before = await self._models.live(job.guild_id)
        passed = bool(((state.get("punchline") or {}).get("gate") or {}).get("passed"))
        if status == "cancelled":
            sentence = words.cancelled(state, before)
        elif status == "failed" or not model_id:
            sentence = words.failed(state, before)
        elif not passed:
            sentence = words.not_better(state, before)
        else:
            if self._auto_promote:
                await self._models.use(job.guild_id, model_id)
            sentence = words.better(state, model_id, before, in_use=self._auto_promote)
        await self._store.jobs.finish(job.job_id, status, model_id if passed else None)
        log.info("job %s ended: %s, gate %s", job.job_id, status, "passed" if passed else "not passed")
        return sentence


class _Board:
    """The one message of a job; written anew if somebody deleted it."""

    def __init__(self, channels: Channels, store: Store, job: Job) -> None:
        self._channel = channels.get_partial_messageable(job.channel_id)
        self._store, self._job = store, job
        self._message_id = job.message_id
        self._shown = ""

    async def show(self, content: str) -> None:
        """Make the message read this; a Discord that refuses is logged, and the next time may work."""
        if content == self._shown:
            return
        try:
            await self._write(content[:2000])
            self._shown = content
        except DISCORD_TROUBLE as error:
            log.warning("the progress of %s could not be shown: %s", self._job.job_id, error)

    async def _write(self, content: str) -> None:
        if self._message_id is not None:
            try:
                await self._channel.get_partial_message(self._message_id).edit(content=content)
                return
            except discord.NotFound:
                self._message_id = None
        self._message_id = (await self._channel.send(content)).id
        job = self._job
        await self._store.jobs.record(job.guild_id, job.job_id, job.channel_id, self._message_id, job.started_by)
