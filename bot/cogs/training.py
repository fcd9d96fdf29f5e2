"""`finetune`: moderators train the server's joke model on the jokes it has collected.

start → snapshot of trainable jokes → upload → job → one message that shows progress → in use if it is better
"""

import asyncio
import logging

from discord.ext import commands

from bot.cogs import training_words as words
from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_group, subcommand
from bot.cogs.training_watch import ENDED, Watch
from bot.errors import BadInput, ModelMissing, RequestFailed, TooFewJokes
from bot.prompts import training_rows
from bot.service_client import Json, ServiceClient
from bot.store import Job, Store
from bot.ui.replies import Context, is_moderator, say

log = logging.getLogger(__name__)

RETRY_S = 60.0


class TrainingCog(commands.Cog, name="Training"):
    """Starts, shows and cancels fine-tunes."""

    def __init__(
        self, store: Store, client: ServiceClient, models: GuildModel, watch: Watch, *, playground: bool
    ) -> None:
        self._store, self._client, self._models, self._watch = store, client, models, watch
        self._playground = playground
        self._following: dict[str, asyncio.Task[None]] = {}
        self._starting: set[int] = set()

    async def cog_load(self) -> None:
        """Go on watching what was running when the bot stopped."""
        for job in await self._store.jobs.all_active():
            self._follow(job)

    async def cog_unload(self) -> None:
        """Stop watching; the jobs themselves go on."""
        tasks = list(self._following.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def cog_check(self, ctx: Context) -> bool:  # type: ignore[override]
        """Training is for a server's moderators."""
        if ctx.guild is None:
            raise commands.NoPrivateMessage
        if not is_moderator(ctx.permissions):
            raise commands.MissingPermissions(["manage_guild"])
        return True

    @hybrid_group("Train this server's joke model (moderators).")
    async def finetune(self, ctx: Context) -> None:
        """Say what there is to do here."""
        await say(
            ctx,
            "🎓 `/finetune start` trains this server's joke model on its jokes, `/finetune status` shows how far it is,"
            " `/finetune cancel` stops it. Jokes go on all the while; the new model is used only if it is better.",
        )

    @subcommand(finetune, "Train the joke model on this server's jokes (moderators).")
    async def start(self, ctx: Context) -> None:
        """Start training; one message shows how it goes."""
        assert ctx.guild is not None
        guild_id = ctx.guild.id
        running = await self._store.jobs.active(guild_id)
        if running is not None or guild_id in self._starting:
            where = f" Its progress: {self._link(running)}" if running else ""
            raise BadInput(f"A training is already running here.{where} `/finetune cancel` stops it.")
        self._starting.add(guild_id)
        try:
            async with ctx.typing():
                state = await self._create(guild_id, ctx.author.id)
            place = (guild_id, str(state["id"]), ctx.channel.id)
            await self._store.jobs.record(*place, None, ctx.author.id)  # known before Discord can get in the way
            try:
                message = await say(ctx, words.progress(state))
                await self._store.jobs.record(*place, message.id, ctx.author.id)
            finally:
                await self._follow_guild(guild_id)
        finally:
            self._starting.discard(guild_id)

    @subcommand(finetune, "Show how the training is going (moderators).")
    async def status(self, ctx: Context) -> None:
        """Show the running training, or the last one and what could be trained on now."""
        assert ctx.guild is not None
        running = await self._store.jobs.active(ctx.guild.id)
        if running is not None:
            state = await self._client.job(running.job_id)
            if state.get("status") in ENDED:
                await say(ctx, f"The training has ended just now. How it went: {self._link(running)}")
            else:
                await say(ctx, f"{words.progress(state)}\nIts message: {self._link(running)}")
            return
        history = await self._store.jobs.history(ctx.guild.id, 1)
        counts = await self._store.jokes.count(ctx.guild.id)
        await say(ctx, words.idle(history[0] if history else None, counts, await self._models.live(ctx.guild.id)))

    @subcommand(finetune, "Stop the training (moderators).")
    async def cancel(self, ctx: Context) -> None:
        """Stop the running training; what tells jokes now goes on."""
        assert ctx.guild is not None
        running = await self._store.jobs.active(ctx.guild.id)
        if running is None:
            raise BadInput("No training is running here. `/finetune start` begins one.")
        async with ctx.typing():
            try:
                await self._client.cancel_job(running.job_id)
            except RequestFailed as error:
                if error.status not in (404, 409):  # it ended in this moment; the watch says how
                    raise
        await say(ctx, "⏹️ Stopping the training. Its message says when it has ended.")

    async def _create(self, guild_id: int, user_id: int) -> Json:
        """Upload the snapshot and start a job on the model that tells jokes here now."""
        jokes = await self._store.jokes.trainable(guild_id)
        counts = await self._store.jokes.count(guild_id)
        if not jokes:
            raise BadInput(words.too_few("There is nothing to train on yet.", counts))
        file_id = await self._client.upload_file(training_rows([(joke.id, joke.text) for joke in jokes]))
        model, metadata = await self._models.live(guild_id), {"guild_id": str(guild_id), "started_by": str(user_id)}
        try:
            try:
                return await self._client.create_job(model, file_id, str(guild_id), metadata)
            except ModelMissing:
                if model == self._models.default:
                    raise
                log.warning("model %s is gone from the service; training on %s", model, self._models.default)
                return await self._client.create_job(self._models.default, file_id, str(guild_id), metadata)
        except TooFewJokes as error:
            raise BadInput(words.too_few(str(error), counts)) from error

    async def _follow_guild(self, guild_id: int) -> None:
        job = await self._store.jobs.active(guild_id)
        if job is not None:
            self._follow(job)

    def _follow(self, job: Job) -> None:
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

    def _link(self, job: Job) -> str:
        """Say where a job's message is; the playground has no addresses for messages."""
        if job.message_id is None or self._playground:
            return f"in <#{job.channel_id}>"
        return f"https://discord.com/channels/{job.guild_id}/{job.channel_id}/{job.message_id}"
