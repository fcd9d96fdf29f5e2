"""Takes models out of use when somebody whose data they hold takes it back. The service may be away meanwhile.

    at once        marked as withdrawn ─ guilds fall back to their last clean model ─ the data is erased
    until done     job cancelled and model deleted at the service ─ moderators told, with a button to train again
                   what broke between upload and the note of the job is ended: snapshots deleted, unknown jobs stopped

What is not done when the bot stops goes on when it is back.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Protocol

import discord

from bot.cogs.guild_model import GuildModel
from bot.cogs.model_words import code
from bot.cogs.training_watch import ENDED
from bot.errors import BotError, ModelMissing, RequestFailed
from bot.service_client import ServiceClient
from bot.store import Holder, RowKind, Store
from bot.ui.replies import DISCORD_TROUBLE
from bot.ui.views import Interaction, View

log = logging.getLogger(__name__)

RETRY_S = 60.0
STARTING_S = 60.0  # a younger snapshot may belong to a training that is being started
CLEARED = "🧹 **Training #{} is withdrawn:** somebody took back what it had learned from, so nothing of it is kept."
MOST_NAMED = 8  # models a message names; the rest is a number


class Channels(Protocol):
    """Where a channel can be written to by its id."""

    def get_partial_messageable(self, id: int, /) -> discord.PartialMessageable: ...  # noqa: D102


class Withdrawals:
    """One `take_back` per person who leaves; the rest happens in a task of its own."""

    def __init__(
        self,
        store: Store,
        client: ServiceClient,
        models: GuildModel,
        channels: Channels,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._store, self._client, self._models, self._channels = store, client, models, channels
        self._retry_s = retry_s
        self._news = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None

    async def take_up(self) -> None:
        """Go on with what was not done when the bot stopped."""
        self._news.set()
        self._settling = asyncio.create_task(self._keep_settling(), name="settle-withdrawals")

    async def close(self) -> None:
        """Stop; what is left is taken up at the next start."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.wait([self._settling])

    async def take_back(self, user_id: int) -> tuple[int, list[Holder]]:
        """Erase a person and withdraw what holds their data; returns (erased jokes, withdrawn fine-tunes)."""
        withdrawn = await self._store.lineage.withdraw(user_id)
        await self._fall_back(withdrawn)
        erased = await self._store.jokes.forget_author(user_id)
        log.info("a person was erased; %d fine-tunes are withdrawn", len(withdrawn))
        self._news.set()
        return erased, withdrawn

    async def _fall_back(self, withdrawn: Iterable[Holder]) -> None:
        changed = await self._store.joke_models.withdraw([each.model for each in withdrawn if each.model])
        for guild_id, (left, now) in changed.items():
            log.info("guild %d: %s is withdrawn, %s tells its jokes", guild_id, left, now or self._models.default)

    async def _keep_settling(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                is_done = await self._settle()
            except Exception:
                log.exception("withdrawing models broke; trying again in %s s", self._retry_s)
                is_done = False
            if not is_done:
                await asyncio.sleep(self._retry_s)
                self._news.set()

    async def _settle(self) -> bool:
        """Do what can be done now; says whether that is all there was."""
        left = await self._store.lineage.unsettled()
        await self._fall_back(left)
        untold = sorted((each for each in left if not each.is_told), key=lambda each: (each.guild_id, each.number))
        told = [await self._tell(list(them)) for _, them in groupby(untold, key=lambda each: each.guild_id)]
        # newest first: what runs on another goes before it
        deleted = [await self._delete(each) for each in left if not each.is_deleted]
        swept, found = await self._sweep(), await self._end_unknown()
        return swept and found and all(told) and all(deleted)

    async def _sweep(self) -> bool:
        """Delete the snapshots that nobody needs any more; False where one is left."""
        try:
            found = await self._client.uploads()
            old = [each for each in found if float(each["created_at"]) < time.time() - STARTING_S]
            for each in old:
                await self._client.delete_file(str(each["id"]))
        except RequestFailed as error:
            log.info("no snapshots to look through: %s", error.code)
            return error.status in (404, 405)  # a service without files, or somebody was faster
        except BotError as error:
            log.info("snapshots could not be looked through yet: %s", type(error).__name__)
            return False
        return len(old) == len(found)

    async def _end_unknown(self) -> bool:
        """End the jobs whose start was asked for but never noted: nobody could trace whose data they hold."""
        asked = await self._store.lineage.unanswered()
        lost = {ticket for ticket, asked_at in asked.items() if asked_at < time.time() - STARTING_S}
        if not lost:
            return not asked
        try:
            found = {str((each.get("metadata") or {}).get("ticket")): each for each in await self._client.jobs()}
        except BotError as error:
            log.info("jobs could not be looked through yet: %s", type(error).__name__)
            return False
        for ticket in lost:
            job_id = str(found[ticket]["id"]) if ticket in found else None
            if job_id is None or await self._store.jobs.is_known(job_id) or await self._let_go(job_id, None):
                await self._store.lineage.answered(ticket)
        return not await self._store.lineage.unanswered()

    async def _delete(self, holder: Holder) -> bool:
        """Let the service forget a fine-tune; False where it cannot be reached, or not yet."""
        if not await self._let_go(holder.job_id, holder.model):
            return False
        await self._store.lineage.deleted(holder.job_id)
        return True

    async def _let_go(self, job_id: str, model: str | None) -> bool:
        """Let the service stop a job and delete its model; model: what it made, should the service not know the job."""
        try:
            model = await self._stopped(job_id) or model
            if model is not None:
                await self._client.delete_model(model)
        except ModelMissing:
            pass  # that is what is wanted
        except BotError as error:
            log.warning("%s could not be deleted yet: %s", job_id, error)
            return False
        return True

    async def _stopped(self, job_id: str) -> str | None:
        """Make sure that the job does not run; returns the model it has made, if the service knows the job."""
        try:
            state = await self._client.job(job_id)
            if state.get("status") not in ENDED:
                state = await self._client.cancel_job(job_id)
        except RequestFailed as error:
            if error.status == 404:
                return None
            raise  # a 409 means that it has ended in this moment: the next time sees how
        return state.get("fine_tuned_model")

    async def _tell(self, withdrawn: Sequence[Holder]) -> bool:
        """Tell a guild's moderators where they started the training; False when Discord could not be reached."""
        live = await self._models.live(withdrawn[0].guild_id)
        channel = self._channels.get_partial_messageable(withdrawn[-1].channel_id)
        try:
            await channel.send(told(withdrawn, live), view=drawn({each.learned_from for each in withdrawn}))
        except (discord.Forbidden, discord.NotFound) as error:
            log.warning("nobody could be told that models are withdrawn in %d: %s", withdrawn[0].guild_id, error)
        except DISCORD_TROUBLE as error:
            log.warning("could not tell of withdrawn models: %s", error)
            return False
        for each in withdrawn:
            await self._clear(each)
            await self._store.lineage.told(each.job_id)
        return True

    async def _clear(self, holder: Holder) -> None:
        """Take figures, samples and buttons off the card of a training: what its model said may be what it learned."""
        if holder.message_id is None or not holder.has_ended:
            return  # the watch of one that runs says how it ends
        card = self._channels.get_partial_messageable(holder.channel_id).get_partial_message(holder.message_id)
        try:
            await card.edit(content=CLEARED.format(holder.number), embed=None, attachments=[], view=None)
        except DISCORD_TROUBLE as error:
            log.warning("the card of %s still stands: %s", holder.job_id, error)


Press = Callable[[Interaction, RowKind], Awaitable[None]]
_LOOKS: dict[RowKind, tuple[str, str]] = {
    "joke": ("Train again without it", "lineage:retrain"),
    "answer": ("Train again on votes without it", "lineage:retrain:votes"),
}


class RetrainView(View):
    """The buttons under the news of a withdrawal; one persistent view answers all of them."""

    def __init__(self, press: Press, kinds: Collection[RowKind] = ("joke", "answer")) -> None:
        super().__init__(timeout=None)
        for kind in sorted(kinds, reverse=True):
            self.add_item(_Button(kind, press))


class _Button(discord.ui.Button[RetrainView]):
    def __init__(self, kind: RowKind, press: Press) -> None:
        label, custom_id = _LOOKS[kind]
        super().__init__(label=label, emoji="🔁", style=discord.ButtonStyle.primary, custom_id=custom_id)
        self._kind, self._press = kind, press

    async def callback(self, interaction: Interaction) -> None:
        """Start a training on what is left."""
        await self._press(interaction, self._kind)


def drawn(kinds: Collection[RowKind]) -> RetrainView:
    """Return the buttons to send; presses go to the persistent view, as they will after a restart."""

    async def never(interaction: Interaction, kind: RowKind) -> None:
        raise AssertionError("a view that has stopped is not asked")

    view = RetrainView(never, kinds)
    view.stop()
    return view


def names(holders: Sequence[Holder]) -> str:
    """Name fine-tunes, each on a line: its number, its model, and how it came to the data."""
    lines = [f"• {_name(each)}" for each in holders[:MOST_NAMED]]
    if len(holders) > MOST_NAMED:
        lines.append(f"• and {len(holders) - MOST_NAMED} more")
    return "\n".join(lines)


def told(withdrawn: Sequence[Holder], live: str) -> str:
    """Say to moderators what happened, and what they can do. Who it was is nobody's business."""
    one = len(withdrawn) == 1
    return (
        f"🧹 Somebody took their data back. {'This training was' if one else 'These trainings were'} given it,"
        f" so {'it is' if one else 'they are'} withdrawn, and nothing {'it' if one else 'they'} learned is kept:\n"
        f"{names(withdrawn)}\n"
        f"{code(live)} tells this server's jokes now."
    )


def _name(holder: Holder) -> str:
    if not holder.has_ended:
        return f"training #{holder.number}, which was running"
    return f"training #{holder.number}" + ("" if holder.model is None else f": {code(holder.model)}")
