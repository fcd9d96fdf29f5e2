"""`privacy`: what the bot keeps about a person, and how they take it back."""

from discord.ext import commands

from bot.cogs.hybrid import hybrid_group, subcommand
from bot.store import CONSENT_TEXT, Store
from bot.ui.replies import Context, say
from bot.ui.views import ConfirmView

WHAT_IS_KEPT = (
    "🔒 **What I keep**\n"
    "• The jokes you add, with your user id and where they came from, in a database on the machine I run on.\n"
    "• Whether you agreed to training, to which text, and when.\n"
    "• Nothing else that you write: what you ask of `joke`, `complete` and `sentiment` is answered and forgotten.\n"
    "Nothing leaves the machine."
)


class PrivacyCog(commands.Cog, name="Privacy"):
    """Tells and forgets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @hybrid_group("What I keep about you, and how to take it back.", fallback="show")
    async def privacy(self, ctx: Context) -> None:
        """Say what I keep about you."""
        version = await self._store.consent.current(ctx.author.id)
        yours = (
            f"You agreed to training (version {version} of the text): “{CONSENT_TEXT}”"
            if version is not None
            else "You have not agreed to training."
        )
        await say(
            ctx,
            f"{WHAT_IS_KEPT}\n{yours}\n`/privacy withdraw` keeps your jokes out of all later training;"
            " `/privacy delete` erases them and everything else I keep about you.",
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
            erased = await self._store.jokes.forget_author(author_id)
            return f"🗑️ Done. I erased {'1 joke' if erased == 1 else f'{erased} jokes'} and forgot you."

        question = "This erases every joke you added, in every server I am in, and your consent. It cannot be undone."
        await say(ctx, question, view=ConfirmView(author_id, "Erase my jokes", forget), ephemeral=True)
