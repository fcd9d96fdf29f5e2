"""What moderators decide about a trained model: use it, keep the old one, take it back. The card and commands share it.

Each decision looks at how things stand now, so that pressing twice, late, or after somebody else ends in a sentence
that says so and changes nothing.
"""

import logging

from bot.cogs import training_history as history
from bot.cogs.guild_model import GuildModel
from bot.cogs.model_words import code
from bot.errors import BadInput, BotError
from bot.service_client import ServiceClient
from bot.store import Job, Store
from bot.ui.training_card import Action

log = logging.getLogger(__name__)


class Decisions:
    """Acts on a guild's jobs. Every method returns the sentence to show, or raises BotError with one."""

    def __init__(self, store: Store, client: ServiceClient, models: GuildModel) -> None:
        self._store, self._client, self._models = store, client, models

    async def promote(self, job: Job, user_id: int, *, from_card: bool = False) -> str:
        """Let a job's model tell the guild's jokes.

        from_card: only while what it was compared with is still what it would replace.
        """
        model, live = _model_of(job), await self._models.live(job.guild_id)
        if job.withdrawn:
            raise BadInput(
                f"{code(model)} is withdrawn: somebody whose data it had learned from took that back."
                " `/finetune start` trains a new one without it."
            )
        if live == model:
            raise BadInput(f"{code(model)} tells this server's jokes already.")
        if from_card and job.started_from not in (None, live):
            raise BadInput(
                f"This model was compared with {code(str(job.started_from))}, but {code(live)} tells"
                f" this server's jokes by now. `/finetune promote {job.number}` uses it all the same."
            )
        if model not in await self._known():
            raise BadInput(f"{code(model)} is no longer there. `/finetune start` trains a new one.")
        before = await self._models.use(job.guild_id, model)
        await self._store.jobs.decide(job.job_id, "promoted", user_id)
        log.info("guild %d: %s promoted, %s before", job.guild_id, model, before)
        although = "" if job.outcome.passed else " It did not pass the gate, so listen to it for a while."
        return (
            f"✅ {code(model)} tells this server's jokes from now on, instead of {code(before)}."
            f"{although} `/finetune rollback` goes back."
        )

    async def undo(self, job: Job, user_id: int) -> str:
        """Go back from a job's model to the one before it."""
        model = _model_of(job)
        step = await self._models.rollback(job.guild_id, await self._known_or_all(), only_from=model)
        if step is None:
            live = await self._models.live(job.guild_id)
            raise BadInput(f"There is nothing to undo: {code(live)} tells this server's jokes now.")
        await self._store.jobs.decide(job.job_id, "undone", user_id)
        return f"↩️ {history.stepped(step)}"

    async def keep(self, job: Job, user_id: int) -> str:
        """Leave everything as it is, and say so."""
        model, live = _model_of(job), await self._models.live(job.guild_id)
        if live == model:
            raise BadInput(f"{code(model)} tells this server's jokes already. Undo goes back.")
        if job.decision == "kept":
            raise BadInput(f"That was decided already: {code(live)} stays.")
        await self._store.jobs.decide(job.job_id, "kept", user_id)
        return (
            f"✋ {code(live)} goes on telling jokes, and the new model is not used."
            f" `/finetune promote {job.number}` uses it after all."
        )

    async def rollback(self, guild_id: int, user_id: int) -> str:
        """Go one step back, whatever made the step."""
        step = await self._models.rollback(guild_id, await self._known_or_all())
        if step is None:
            live = await self._models.live(guild_id)
            raise BadInput(f"There is no earlier model to go back to: {code(live)} tells this server's jokes.")
        for job in await self._store.jobs.history(guild_id, history.MOST):
            if job.model == step.left:
                await self._store.jobs.decide(job.job_id, "undone", user_id)
        log.info("guild %d: rolled back from %s to %s", guild_id, step.left, step.now)
        return f"↩️ {history.stepped(step)}"

    async def actions(self, job: Job) -> tuple[Action, ...]:
        """Say which buttons make sense now."""
        if job.model is None or job.withdrawn:
            return ()
        if await self._models.live(job.guild_id) == job.model:
            return ("undo", "longer")
        return ("promote", "keep", "longer") if job.decision is None else ("promote", "longer")

    async def _known(self) -> set[str]:
        return {str(card["id"]) for card in await self._client.models()}

    async def _known_or_all(self) -> set[str] | None:
        """Going back must work while the service is away, too."""
        try:
            return await self._known()
        except BotError as error:
            log.warning("going back without asking what models there are: %s", type(error).__name__)
            return None


def _model_of(job: Job) -> str:
    if job.finished_at is None:
        raise BadInput(f"Training #{job.number} has not ended yet. `/finetune status` shows how far it is.")
    if job.model is None:
        raise BadInput(f"Training #{job.number} made no model: {history.ended(job)}.")
    return job.model
