"""`privacy`: what the bot keeps about a person, and how they take it back, out of trained models too."""

from discord.ext import commands

from bot.cogs import withdrawals
from bot.cogs.hybrid import hybrid_group, subcommand
from bot.cogs.training import Views
from bot.cogs.training_runs import Runs
from bot.cogs.training_sources import Wish
from bot.cogs.withdrawals import RetrainView, Withdrawals
from bot.errors import NotAllowed
from bot.store import CONSENT_TEXT, RowKind, Store
from bot.ui.replies import Context, is_moderator, say
from bot.ui.views import ConfirmView, Interaction

WHAT_IS_KEPT = (
    "🔒 **What I keep**\n"
    "• The jokes you add, with your user id and where they came from, in a database on the machine I run on.\n"
    "• Whether you agreed to training, to which text, and when.\n"
    "• Which trainings of this server's model were given your jokes or votes, so that they can be taken out of use.\n"
    "• Jokes I told in a server, with the topic you asked for: a month, or for good once somebody votes on them.\n"
    "• Your votes on my jokes, and how you vote in a duel until it ends.\n"
    "• Nothing else that you write: what you ask of `complete` and `sentiment` is answered and forgotten.\n"
    "Nothing leaves the machine."
)


class PrivacyCog(commands.Cog, name="Privacy"):
    """Tells and forgets."""

    def __init__(self, store: Store, withdrawals: Withdrawals, runs: Runs, views: Views) -> None:
        self._store, self._withdrawals, self._runs, self._views = store, withdrawals, runs, views

    async def cog_load(self) -> None:
        """Answer the buttons that offer to train again, and go on with what was not done when the bot stopped."""
        self._views.add_view(RetrainView(self._retrain))
        await self._withdrawals.take_up()

    async def cog_unload(self) -> None:
        """Stop; what is left is taken up at the next start."""
        await self._withdrawals.close()

    @hybrid_group("What I keep about you, and how to take it back.", fallback="show")
    async def privacy(self, ctx: Context) -> None:
        """Say what I keep about you."""
        version = await self._store.consent.current(ctx.author.id)
        yours = (
            f"You agreed to training (version {version} of the text): “{CONSENT_TEXT}”"
            if version is not None
            else "You have not agreed to training."
        )
        holders = [each for each in await self._store.lineage.holding(ctx.author.id) if each.model]
        if holders:
            yours += f"\nThese models have learned from your data:\n{withdrawals.names(holders)}"
        await say(
            ctx,
            f"{WHAT_IS_KEPT}\n{yours}\n`/privacy withdraw` keeps your jokes out of all later training;"
            " `/privacy delete` erases them and everything else I keep about you, models that learned from it"
            " included.",
            ephemeral=True,
        )

    @subcommand(privacy, "Take back your consent to training.")
    async def withdraw(self, ctx: Context) -> None:
        """Keep your jokes out of all later training; they stay for telling."""
        if await self._store.consent.current(ctx.author.id) is None:
            await say(ctx, "You have not agreed to training, so there is nothing to take back.", ephemeral=True)
            return
        covered = await self._store.consent.withdraw(ctx.author.id)
        jokes = "1 joke of yours is" if covered == 1 else f"{covered} jokes of yours are"
        await say(ctx, f"✅ Done. {jokes} out of all later training, and stay for telling only.", ephemeral=True)

    @subcommand(privacy, "Erase your jokes and everything else I keep about you.")
    async def delete(self, ctx: Context) -> None:
        """Erase everything I keep about you, in every server, after a confirmation."""
        author_id = ctx.author.id

        async def forget() -> str:
            erased, withdrawn = await self._withdrawals.take_back(author_id)
            done = f"🗑️ Done. I erased {'1 joke' if erased == 1 else f'{erased} jokes'} and forgot you."
            if not withdrawn:
                return done
            kept = "What was given them is withdrawn, and nothing it learned is kept"
            return f"{done} {kept}:\n{withdrawals.names(withdrawn)}"

        question = (
            "This erases every joke you added, in every server I am in, with your votes, the topics you asked for and"
            " your consent. It cannot be undone."
        )
        holders = await self._store.lineage.holding(author_id)
        if holders:
            question += (
                " These have learned from your data, and are withdrawn and deleted with it, and I forget the jokes they"
                f" told; their servers go back to their last model that has not:\n{withdrawals.names(holders)}"
            )
        await say(ctx, question, view=ConfirmView(author_id, "Erase my jokes", forget), ephemeral=True)

    async def _retrain(self, interaction: Interaction, kind: RowKind) -> None:
        """Start a training on what is left of the jokes, or of the votes, for those who may."""
        if not is_moderator(interaction.permissions):
            raise NotAllowed
        assert interaction.guild_id is not None
        assert interaction.channel_id is not None
        assert interaction.message is not None
        await interaction.response.defer()
        async with self._runs.starting(interaction.guild_id):
            wish = Wish("votes" if kind == "answer" else "jokes")
            await self._runs.create(interaction.guild_id, interaction.channel_id, interaction.user.id, wish=wish)
            await self._runs.follow_guild(interaction.guild_id)
        on = "on votes " if kind == "answer" else ""
        content = f"{interaction.message.content}\n👉 🔁 Training again {on}without it (<@{interaction.user.id}>)."
        await interaction.edit_original_response(content=content, view=None)
