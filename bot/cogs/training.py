"""`finetune`: moderators train the server's joke model on the jokes it has collected, judge it, and take it back.

start → snapshot of trainable jokes → upload → job → one message that shows progress → in use if it is better
"""

import asyncio
import logging
from typing import Protocol

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs import training_history
from bot.cogs import training_words as words
from bot.cogs.guild_model import GuildModel
from bot.cogs.hybrid import hybrid_group, subcommand
from bot.cogs.training_decisions import Decisions
from bot.cogs.training_runs import Runs
from bot.cogs.training_sources import ADAPTERS, SOURCES, Wish, wish_of, wished
from bot.cogs.training_watch import ENDED
from bot.errors import BadInput, NotAllowed, RequestFailed
from bot.service_client import ServiceClient
from bot.store import Job, Store
from bot.ui.replies import Context, is_moderator, say
from bot.ui.text import MESSAGE_LIMIT
from bot.ui.training_card import Action, CardView, drawn
from bot.ui.views import Interaction

log = logging.getLogger(__name__)

START = "[votes|global] [full]"
NOT_THE_OWNER = (
    "Only my owner can train everybody's model (`global`) or all weights of one (`full`). `/finetune start` trains this"
    " server's model."
)
MAX_EPOCHS = 100  # the service's own limit
DECIDED = "👉 "  # begins the line of a card that says what was decided last


class Views(Protocol):
    """Where persistent views live: discord.py's client."""

    def add_view(self, view: discord.ui.View, /) -> None: ...  # noqa: D102


class TrainingCog(commands.Cog, name="Training"):
    """Starts, shows, cancels and judges fine-tunes."""

    def __init__(self, store: Store, client: ServiceClient, models: GuildModel, runs: Runs, views: Views) -> None:
        self._store, self._client, self._models, self._runs, self._views = store, client, models, runs, views
        self._decisions = Decisions(store, client, models)
        self.deciding = asyncio.Lock()  # two presses at once are one after the other

    async def cog_load(self) -> None:
        """Answer the buttons of every card there is, and go on watching what was running when the bot stopped."""
        self._views.add_view(CardView(self._press))
        await self._runs.take_up()

    async def cog_unload(self) -> None:
        """Stop watching; the jobs themselves go on."""
        await self._runs.close()

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
            "🎓 `/finetune start` trains this server's joke model on its jokes, `/finetune start votes` on the votes"
            " under mine. `/finetune status` shows how far it is, `/finetune cancel` stops it. Jokes go on all the"
            " while; the new model is used only if it is better."
            "\n`/finetune history` lists the trainings, `/finetune rollback` goes back to the model before.",
        )

    @subcommand(finetune, "Train the joke model on this server's jokes or votes (moderators).", usage=START)
    @app_commands.describe(
        on="What to learn from; left out: the jokes. Global imports are the owner's.",
        adapter="How: lora trains a small adapter (as ever); full trains all weights, for the bot's owner.",
    )
    @app_commands.choices(
        on=[app_commands.Choice(name=each, value=each) for each in SOURCES],
        adapter=[app_commands.Choice(name=each, value=each) for each in ADAPTERS],
    )
    async def start(self, ctx: Context, on: str = "", adapter: str = "") -> None:
        """Start training; one message shows how it goes. `global` and `full` are for the bot's owner."""
        assert ctx.guild is not None
        wish = wished(on, adapter)
        await _check_owner(ctx.bot, ctx.author, wish)
        guild_id = ctx.guild.id
        async with self._runs.starting(guild_id):
            async with ctx.typing():
                state = await self._runs.create(guild_id, ctx.channel.id, ctx.author.id, wish=wish)
            try:
                message = await say(ctx, words.progress(state))
                await self._store.jobs.record(guild_id, str(state["id"]), ctx.channel.id, message.id, ctx.author.id)
            finally:
                await self._runs.follow_guild(guild_id)

    @subcommand(finetune, "Show how the training is going (moderators).")
    async def status(self, ctx: Context) -> None:
        """Show the running training, or the last one and what could be trained on now."""
        assert ctx.guild is not None
        running = await self._store.jobs.active(ctx.guild.id)
        if running is not None:
            state = await self._client.job(running.job_id)
            if state.get("status") in ENDED:
                await say(ctx, f"The training has ended just now. How it went: {self._runs.link(running)}")
            else:
                await say(ctx, f"{words.progress(state)}\nIts message: {self._runs.link(running)}")
            return
        history = await self._store.jobs.history(ctx.guild.id, 1)
        counts = await self._store.jokes.count(ctx.guild.id)
        await say(ctx, words.idle(history[0] if history else None, counts, await self._models.live(ctx.guild.id)))

    @subcommand(finetune, "Stop the training (moderators).")
    async def cancel(self, ctx: Context) -> None:
        """Stop the running training; what tells jokes now goes on."""
        running = await self._running(ctx)
        async with ctx.typing():
            try:
                await self._client.cancel_job(running.job_id)
            except RequestFailed as error:
                if error.status not in (404, 409):  # it ended in this moment; the watch says how
                    raise
        await say(ctx, "⏹️ Stopping the training. Its message says when it has ended.")

    @subcommand(finetune, "Let the training rest; it goes on where it was (moderators).")
    async def pause(self, ctx: Context) -> None:
        """Let the running training rest at a checkpoint."""
        running = await self._running(ctx)
        async with ctx.typing():
            await self._client.pause_job(running.job_id)
        await say(ctx, "⏸️ The training rests. `/finetune resume` lets it go on where it was.")

    @subcommand(finetune, "Let a paused training go on (moderators).")
    async def resume(self, ctx: Context) -> None:
        """Let a paused training go on where it was."""
        running = await self._running(ctx)
        async with ctx.typing():
            await self._client.resume_job(running.job_id)
        await say(ctx, "▶️ The training goes on. `/finetune status` shows how far it is.")

    @subcommand(finetune, "List the trainings of this server (moderators).", usage="[page]")
    @app_commands.describe(page="Which page; 1 has the newest.")
    async def history(self, ctx: Context, page: int = 1) -> None:
        """List the trainings: when, who, on how many jokes, how it came out, and which model is live."""
        assert ctx.guild is not None
        jobs = await self._jobs(ctx.guild.id)
        await say(ctx, training_history.page(jobs, await self._models.live(ctx.guild.id), page))

    @subcommand(finetune, "Use the model of an earlier training (moderators).", usage="<number or id>")
    @app_commands.describe(job="Its number, as /finetune history lists it.")
    async def promote(self, ctx: Context, *, job: str) -> None:
        """Tell jokes with the model of a training from now on."""
        assert ctx.guild is not None
        chosen = training_history.find(await self._jobs(ctx.guild.id), job)
        async with ctx.typing(), self.deciding:
            sentence = await self._decisions.promote(chosen, ctx.author.id)
        await say(ctx, sentence)

    @promote.autocomplete("job")
    async def suggest(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """Offer the trainings whose model could be used; nothing to people who may not."""
        if interaction.guild_id is None or not is_moderator(interaction.permissions):
            return []
        live = await self._models.live(interaction.guild_id)
        return training_history.choices(await self._jobs(interaction.guild_id), typed, live)

    @subcommand(finetune, "Go back to the model before, at once (moderators).")
    async def rollback(self, ctx: Context) -> None:
        """Go one step back to the model before; again goes one more."""
        assert ctx.guild is not None
        async with ctx.typing(), self.deciding:
            sentence = await self._decisions.rollback(ctx.guild.id, ctx.author.id)
        await say(ctx, sentence)

    async def _running(self, ctx: Context) -> Job:
        assert ctx.guild is not None
        running = await self._store.jobs.active(ctx.guild.id)
        if running is None:
            raise BadInput("No training is running here. `/finetune start` begins one.")
        return running

    async def _jobs(self, guild_id: int) -> list[Job]:
        return await self._store.jobs.history(guild_id, training_history.MOST)

    async def _press(self, interaction: Interaction, action: Action) -> None:
        """Answer a button of a card. Who may is looked at here, each time, whoever sees the button."""
        if not is_moderator(interaction.permissions):
            raise NotAllowed
        assert interaction.message is not None
        await interaction.response.defer()
        async with self.deciding:
            job = await self._store.jobs.of_message(interaction.message.id)
            if job is None or job.guild_id != interaction.guild_id:
                raise BadInput("I know nothing of this training any more. `/finetune history` lists what I know.")
            if action == "longer":
                sentence = await self._train_longer(job, interaction)
            elif action == "promote":
                sentence = await self._decisions.promote(job, interaction.user.id, from_card=True)
            elif action == "undo":
                sentence = await self._decisions.undo(job, interaction.user.id)
            else:
                sentence = await self._decisions.keep(job, interaction.user.id)
        await self._redraw(interaction, job, sentence, without=action)

    async def _redraw(self, interaction: Interaction, job: Job, sentence: str, *, without: Action) -> None:
        """Say on the card what was decided and by whom, with the buttons that make sense now."""
        assert interaction.message is not None
        now = next(each for each in await self._jobs(job.guild_id) if each.job_id == job.job_id)
        actions = [action for action in await self._decisions.actions(now) if action != without]
        before = [line for line in interaction.message.content.split("\n") if not line.startswith(DECIDED)]
        decided = f"\n{DECIDED}{sentence} (<@{interaction.user.id}>)"
        content = "\n".join(before)[: MESSAGE_LIMIT - len(decided)] + decided
        await interaction.edit_original_response(content=content, view=drawn(actions, passed=bool(now.outcome.passed)))

    async def _train_longer(self, job: Job, interaction: Interaction) -> str:
        """Start over from the model that is live now, for twice as many rounds; the gate compares with that one."""
        async with self._runs.starting(job.guild_id):
            try:
                state = await self._client.job(job.job_id)
            except RequestFailed as error:
                if error.status != 404:
                    raise
                raise BadInput("The service has forgotten this training. `/finetune start` begins a new one.") from None
            n_epochs = int(state["hyperparameters"]["n_epochs"])
            if n_epochs >= MAX_EPOCHS:
                raise BadInput(f"It went over the jokes {n_epochs} times already, and more is not possible.")
            longer = min(MAX_EPOCHS, 2 * n_epochs)
            wish = wish_of(state)
            await _check_owner(interaction.client, interaction.user, wish)
            await self._runs.create(job.guild_id, job.channel_id, interaction.user.id, longer, wish=wish)
            await self._runs.follow_guild(job.guild_id)
        return (
            f"🔁 Training again, {longer} times over the jokes instead of {n_epochs}: a new message shows how it goes."
        )


async def _check_owner(bot: commands.Bot, user: discord.abc.User, wish: Wish) -> None:
    """Let only the bot's owner, or the team that is, have what is theirs. Raises NotAllowed."""
    if wish.is_the_owners and not await bot.is_owner(user):
        raise NotAllowed(NOT_THE_OWNER)
