"""`/jokes import file:`: a CSV, TSV or JSONL file becomes a server's jokes, read as `punchline import` reads it.

The file comes as an option of the slash command. One attached to a typed `!jokes import` is part of a message, which
Discord does not let anybody train on, so it is not taken for an import: the answer says which way is open.
"""

import asyncio

import discord

from bot.errors import BadInput
from bot.importing import Plan, Tally, run
from bot.importing_columns import choose
from bot.importing_records import BadSource, NotDecoded, TextOptions
from bot.importing_sources import open_attachment
from bot.importing_words import summary
from bot.store import Store
from bot.ui.text import inline, sanitise

MAX_FILE_BYTES = 10 * 2**20
IN_A_MESSAGE = (
    "A file in a message is part of the message, and Discord does not let me train on those. Use the slash command:"
    " `/jokes import` has a place for the file."
)
NO_FILE = (
    "There is no file with that. `/jokes import` has a place for a CSV, TSV or JSONL file; with nothing filled in, the"
    " starter pack comes in."
)


async def import_file(store: Store, guild_id: int, file: discord.Attachment, column: str, licence: str) -> str:
    """Import an attachment into a server's collection; return the counts, with the reasons. Raises BadInput."""
    name = inline(file.filename, 80)
    if file.size > MAX_FILE_BYTES:
        raise BadInput(
            f"{name} has {file.size / 2**20:.1f} MiB; I take {MAX_FILE_BYTES // 2**20} here. Split it, or let the"
            " bot's operator use `punchline import` on the machine itself."
        )
    tally = Tally()
    try:
        source = await asyncio.to_thread(open_attachment, name, await file.read(), TextOptions())
        columns = choose(name, source.columns, (column,) if column else (), how="the option column:")
        plan = Plan(columns, guild_id, f"not stated ({name})", licence.strip() or None)
        await run(source, plan, store.bulk, tally)
    except NotDecoded as error:
        raise BadInput(f"{error.sentence} Save the file as UTF-8, then try again.") from error
    except BadSource as error:
        raise BadInput(sanitise(error.sentence)) from error
    if not tally.is_useful:
        raise BadInput(f"{summary(name, tally)}\nNot one row was a joke. Is it the right column?")
    return summary(name, tally)
