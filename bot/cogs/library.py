"""`addjoke` and `jokes`: what this server has collected, from where, and what of it may train the joke model.

A typed joke is a message, which Discord does not allow anybody to train on, so it is kept for telling. The modal behind
`/addjoke` asks in so many words; only a yes makes a joke trainable (`bot.store.jokes` has the rule).
"""

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs.hybrid import hybrid_command, hybrid_group, subcommand
from bot.cogs.library_export import MAY_NOT_ATTACH, export_file
from bot.cogs.library_import import IN_A_MESSAGE, NO_FILE, import_file
from bot.cogs.library_words import LIST_LIMIT, SEARCH_LIMIT, added_sentence, imported_sentence, listed, overview
from bot.errors import BadInput, NotAllowed
from bot.store import CONSENT_TEXT, CONSENT_VERSION, Store
from bot.ui.replies import Context, is_moderator, say
from bot.ui.text import inline, sanitise
from bot.ui.views import ImportView, Interaction, JokeModal


class LibraryCog(commands.Cog, name="Joke collection"):
    """Keeps a server's jokes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def cog_check(self, ctx: Context) -> bool:  # type: ignore[override]
        """A collection belongs to a server."""
        if ctx.guild is None:
            raise commands.NoPrivateMessage
        return True

    @hybrid_command("Add a joke to this server's collection.", usage="<joke>")
    @app_commands.describe(text="The joke; leave empty to write it in the form that opens.")
    async def addjoke(self, ctx: Context, *, text: str = "") -> None:
        """Add a joke. The slash command opens a form that also asks whether I may learn from it."""
        await self._add(ctx, text.strip())

    @hybrid_group("This server's jokes.", fallback="list")
    async def jokes(self, ctx: Context) -> None:
        """Show how many jokes there are, how many may be trained on, and the last few."""
        assert ctx.guild is not None
        counts = await self._store.jokes.count(ctx.guild.id)
        if counts.total:
            latest = await self._store.jokes.latest(ctx.guild.id, LIST_LIMIT)
            await say(ctx, overview(counts), embed=listed("The newest", latest))
        elif is_moderator(ctx.permissions):
            await say(ctx, overview(counts), view=ImportView(self._import))
        else:
            await say(ctx, overview(counts))

    @subcommand(jokes, "Add a joke to this server's collection.", usage="<joke>")
    @app_commands.describe(text="The joke; leave empty to write it in the form that opens.")
    async def add(self, ctx: Context, *, text: str = "") -> None:
        """Add a joke; the same as `addjoke`."""
        await self._add(ctx, text.strip())

    @subcommand(jokes, "Find jokes that contain every one of some words.", usage="<words>")
    @app_commands.describe(words="Words to look for.")
    async def search(self, ctx: Context, *, words: str) -> None:
        """Find jokes: `jokes search chicken road`."""
        assert ctx.guild is not None
        found = await self._store.jokes.search(ctx.guild.id, words, SEARCH_LIMIT + 1)
        if not found:
            await say(ctx, f"None of this server's jokes has “{inline(words, 60)}” in it. `/addjoke` can change that.")
            return
        more = f" (the newest {SEARCH_LIMIT})" if len(found) > SEARCH_LIMIT else ""
        await say(ctx, embed=listed(f"Jokes with “{inline(words, 60)}”{more}", found[:SEARCH_LIMIT]))

    @subcommand(jokes, "Tell any joke from the collection.")
    async def random(self, ctx: Context) -> None:
        """Tell a collected joke, not a generated one."""
        assert ctx.guild is not None
        joke = await self._store.jokes.random(ctx.guild.id)
        if joke is None:
            raise BadInput("There are no jokes here yet. `/addjoke` adds one; `/jokes import` brings the starter pack.")
        await say(ctx, f"{sanitise(joke.text)}\n-# joke #{joke.id}")

    @subcommand(jokes, "Remove a joke; moderators any, everybody their own.", usage="<number>")
    @app_commands.describe(number="The joke's number, as the lists show it.")
    async def remove(self, ctx: Context, number: str) -> None:
        """Remove a joke by its number: `jokes remove 12`."""
        assert ctx.guild is not None
        digits = number.strip().lstrip("#")
        if not (digits.isascii() and digits.isdigit()):
            raise BadInput("I need the joke's number, for example 12. `/jokes list` shows the numbers.")
        joke = await self._store.jokes.get(ctx.guild.id, int(digits[:20]))
        if joke is None:
            raise BadInput(f"There is no joke #{digits[:20]} here. `/jokes list` and `/jokes search` show the numbers.")
        if joke.author_id != ctx.author.id and not is_moderator(ctx.permissions):
            raise NotAllowed("You can remove jokes that you added yourself; moderators can remove any.")
        await self._store.jokes.remove(ctx.guild.id, joke.id)
        await say(ctx, f"🗑️ Removed joke #{joke.id}: {inline(joke.text, 120)}")

    @subcommand(jokes, "Import a file of jokes, or the starter pack (moderators).", name="import", usage="[file]")
    @app_commands.describe(
        file="CSV, TSV or JSONL; without one, the starter pack comes in.",
        column="Column of the file that holds the jokes, if I cannot tell.",
        licence="Licence of the jokes in the file, like CC0-1.0.",
    )
    async def import_(
        self, ctx: Context, file: discord.Attachment | None = None, column: str = "", licence: str = ""
    ) -> None:
        """Bring a file's jokes, or the starter pack of short, clean ones, into this server's collection."""
        assert ctx.guild is not None
        if not is_moderator(ctx.permissions):
            raise NotAllowed
        if file is None and (column or licence):
            raise BadInput(NO_FILE)
        if file is None:
            await say(ctx, await self._import(ctx.guild.id))
        elif ctx.interaction is None:
            raise BadInput(IN_A_MESSAGE)
        else:
            async with ctx.typing():
                told = await import_file(self._store, ctx.guild.id, file, column, licence)
                await say(ctx, f"{told}\n{overview(await self._store.jokes.count(ctx.guild.id))}")

    @subcommand(jokes, "Get this server's jokes as a file (moderators).")
    async def export(self, ctx: Context) -> None:
        """Send all jokes as a JSONL file that imports read; whose they are is not in it."""
        assert ctx.guild is not None
        if not is_moderator(ctx.permissions):
            raise NotAllowed
        if ctx.interaction is None and not ctx.bot_permissions.attach_files:
            raise BadInput(MAY_NOT_ATTACH)
        async with ctx.typing(ephemeral=True):
            file, count = await export_file(self._store, ctx.guild.id, ctx.guild.filesize_limit)
        jokes = "joke" if count == 1 else "jokes"
        await say(ctx, f"📦 {count:,} {jokes}: text, where from, licence; no names.", file=file, ephemeral=True)

    async def _import(self, guild_id: int) -> str:
        imported = await self._store.jokes.import_starter(guild_id)
        return imported_sentence(imported, await self._store.jokes.count(guild_id))

    async def _add(self, ctx: Context, text: str) -> None:
        assert ctx.guild is not None
        if ctx.interaction is not None:
            await ctx.interaction.response.send_modal(JokeModal(CONSENT_TEXT, self._save, draft=text))
            return
        if not text:
            raise BadInput("I need the joke too, right after the command; or use `/addjoke`, which opens a form.")
        consent = await self._store.consent.current(ctx.author.id)
        added = await self._store.jokes.add(ctx.guild.id, ctx.author.id, text, "message", consent)
        await say(ctx, added_sentence(added))

    async def _save(self, interaction: Interaction, text: str, consents: bool) -> None:
        """Keep what the modal brought; the answer is its author's to see."""
        assert interaction.guild_id is not None
        version = CONSENT_VERSION if consents else None
        added = await self._store.jokes.add(interaction.guild_id, interaction.user.id, text, "modal", version)
        await interaction.response.send_message(added_sentence(added), ephemeral=True)
