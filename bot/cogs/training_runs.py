"""Starts fine-tunes and follows each to its end, over restarts of the bot: one at a time for each server.

snapshot of trainable jokes ─ upload ─ job ─ recorded ─ a watch that keeps one message telling how it goes
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bot.cogs.guild_model import GuildModel
from bot.cogs.model_words import owner_of
from bot.cogs.training_sources import Wish, is_still_there, snapshot
from bot.cogs.training_watch import Watch
from bot.errors import BadInput, BotError, ModelMissing, RequestFailed, TooFewJokes
from bot.service_client import Json, ServiceClient
from bot.store import Job, Store

log = logging.getLogger(__name__)

RETRY_S = 60.0
JOKES = Wish()
EVERYBODYS = "global"  # in a model's id where others have the number of their server


class Runs:
    """The servers' running trainings; `close` stops watching, the jobs themselves go on."""

    def __init__(
        self, store: Store, client: ServiceClient, models: GuildModel, watch: Watch, *, playground: bool
    ) -> None:
        self._store, self._client, self._models, self._watch = store, client, models, watch
        self._playground = playground
        self._following: dict[str, asyncio.Task[None]] = {}
        self._starting: set[int] = set()

    async def take_up(self) -> None:
        """Go on watching what was running when the bot stopped."""
        for job in await self._store.jobs.all_active():
            self.follow(job)

    async def close(self) -> None:
        """Stop watching."""
        tasks = list(self._following.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def starting(self, guild_id: int) -> AsyncIterator[None]:
        """Hold the server's one place for a training while it is being started. Raises BadInput where it is taken."""
        running = await self._store.jobs.active(guild_id)
        if running is not None or guild_id in self._starting:
            where = f" Its progress: {self.link(running)}" if running else ""
            raise BadInput(f"A training is already running here.{where} `/finetune cancel` stops it.")
        self._starting.add(guild_id)
        try:
            yield
        finally:
            self._starting.discard(guild_id)

    async def create(
        self, guild_id: int, channel_id: int, user_id: int, n_epochs: int | None = None, *, wish: Wish = JOKES
    ) -> Json:
        """Upload the snapshot, start a job on the model that tells jokes here now, and record it; returns the job.

        A job on global jokes starts from a model that holds no server's jokes. Whether somebody may wish for it is the
        caller's to know.
        """
        given = await snapshot(self._store, guild_id, wish.source)
        live = await self._models.live(guild_id)
        base = self._models.default if wish.source == "global" and owner_of(live) is not None else live
        ticket = await self._store.lineage.ask()
        # nothing of a person: the service keeps it
        metadata = {"guild_id": str(guild_id), "source": wish.source, "ticket": ticket}
        suffix = EVERYBODYS if wish.source == "global" else str(guild_id)

        how: dict[str, Any] = {
            "n_epochs": n_epochs,
            "method": "dpo" if wish.source == "votes" else "supervised",
            "adapter": wish.adapter,
        }
        async with self._uploaded(given.rows) as file_id:
            try:
                base, state = await self._started(
                    base, lambda on: self._client.create_job(on, file_id, suffix, metadata, **how)
                )
            except RequestFailed as error:
                await self._store.lineage.answered(ticket)  # it was refused; after any other trouble it may run
                if isinstance(error, TooFewJokes):
                    raise BadInput(f"{error}\n{given.had}") from error
                raise
        await self._store.lineage.record(str(state["id"]), given.lineage)
        await self._store.jobs.record(guild_id, str(state["id"]), channel_id, None, user_id, base)
        await self._store.lineage.answered(ticket)
        if not await is_still_there(self._store, guild_id, given):
            await self._drop(str(state["id"]))
            raise BadInput("Some of what I was about to train on was taken back just now. Start again without it.")
        return state

    async def _started(self, base: str, start: Callable[[str], Awaitable[Json]]) -> tuple[str, Json]:
        """Start a job on a model, or on the default where that one is gone; returns which it was, and the job."""
        try:
            return base, await start(base)
        except ModelMissing:
            default = self._models.default
            if base == default:
                raise
        log.warning("model %s is gone from the service; training on %s", base, default)
        return default, await start(default)

    async def _drop(self, job_id: str) -> None:
        """End a job that may not go on."""
        await self._client.cancel_job(job_id)
        await self._store.jobs.finish(job_id, "cancelled", None)

    @asynccontextmanager
    async def _uploaded(self, rows: Sequence[Mapping[str, str]]) -> AsyncIterator[str]:
        """Upload rows for the time of the block: a job keeps its own copy, which goes when it ends."""
        file_id = await self._client.upload_file(rows)
        try:
            yield file_id
        finally:
            try:
                await self._client.delete_file(file_id)
            except BotError as error:
                log.warning("the service still has the upload %s: %s", file_id, type(error).__name__)

    async def follow_guild(self, guild_id: int) -> None:
        """Watch the server's running job."""
        job = await self._store.jobs.active(guild_id)
        if job is not None:
            self.follow(job)

    def follow(self, job: Job) -> None:
        """Watch a job in a task of its own."""
        task = asyncio.create_task(self._keep_following(job), name=f"watch-{job.job_id}")
        self._following[job.job_id] = task
        task.add_done_callback(lambda _: self._following.pop(job.job_id, None))

    async def _keep_following(self, job: Job) -> None:
        """Follow to the end, whatever breaks on the way."""
        while True:
            try:
                await self._watch.follow(job)
            except Exception:
                log.exception("watching %s broke; trying again in %s s", job.job_id, RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def link(self, job: Job) -> str:
        """Say where a job's message is; the playground has no addresses for messages."""
        if job.message_id is None or self._playground:
            return f"in <#{job.channel_id}>"
        return f"https://discord.com/channels/{job.guild_id}/{job.channel_id}/{job.message_id}"
