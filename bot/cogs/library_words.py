"""The sentences and lists of the joke collection."""

from collections.abc import Sequence

import discord

from bot.store import Added, Counts, Imported, Joke
from bot.ui.text import inline

LIST_LIMIT = 5
SEARCH_LIMIT = 10
JOKE_WIDTH = 160  # characters of a joke in a list

_FROM = {
    "import": "imported",
    "modal": "from the form",
    "slash": "from a slash command",
    "generated": "told by the bot",
    "message": "from a message",
}


def overview(counts: Counts) -> str:
    """Say how many jokes there are and how many may train."""
    if counts.total == 0:
        return (
            "📭 This server has no jokes yet. Add one with `/addjoke`, or let a moderator bring in the starter pack"
            " with `/jokes import`."
        )
    return f"📚 **{_jokes(counts.total)}** here, {_of_them(counts)}."


def added_sentence(added: Added) -> str:
    """Confirm a joke, and say plainly whether the model may learn from it."""
    joke = added.joke
    start = f"This server has that joke already: it is #{joke.id}." if added.duplicate else f"✅ Saved as #{joke.id}."
    if joke.trainable:
        return f"{start} I may learn from it at the next training."
    if joke.provenance == "message":
        return (
            f"{start} I keep it for telling only: Discord does not let me train on messages."
            " `/addjoke` has a form that asks whether I may learn from a joke."
        )
    return f"{start} I keep it for telling only, as you chose."


def imported_sentence(imported: Imported, counts: Counts) -> str:
    """Say how an import went and where the collection stands."""
    if imported.added == 0:
        return f"📦 The starter pack was here already. {overview(counts)}"
    here = f" ({imported.duplicates} were here already)" if imported.duplicates else ""
    return f"📦 Imported **{_jokes(imported.added)}**{here}. This server has {counts.total} now, {_of_them(counts)}."


def listed(title: str, jokes: Sequence[Joke]) -> discord.Embed:
    """List jokes with their numbers, where they came from, and 🎓 on those that may train."""
    embed = discord.Embed(title=title, description="\n".join(_line(joke) for joke in jokes), colour=0xF5A623)
    return embed.set_footer(text="🎓 may be used to train this server's joke model")


def _line(joke: Joke) -> str:
    learns = " · 🎓" if joke.trainable else ""
    return f"**#{joke.id}** {inline(joke.text, JOKE_WIDTH)}\n-# {_FROM[joke.provenance]}{learns}"


def _jokes(count: int) -> str:
    return "1 joke" if count == 1 else f"{count} jokes"


def _of_them(counts: Counts) -> str:
    if counts.trainable == counts.total:
        return "and I may learn from all of them" if counts.total > 1 else "and I may learn from it"
    return f"{counts.trainable} of them I may learn from"
