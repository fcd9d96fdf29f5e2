"""How an import went, in lines: for the terminal, and shorter for a message."""

from bot.importing import Tally
from bot.store.bulk import GLOBAL

WIDTH = 9


def report(name: str, columns: tuple[str, ...], tally: Tally, *, dry_run: bool) -> list[str]:
    """Return the counts, a line each; every row that was read is in exactly one of them."""
    read_from = f"column {columns[0]}" if len(columns) == 1 else f"columns {' + '.join(columns)}"
    duplicates = tally.repeated + tally.there_already
    lines = [
        f"{name}, {read_from}: {rows(tally.read)} read",
        f"{tally.new:>{WIDTH},}  new{' (a dry run: nothing was written)' if dry_run else ''}",
        f"{duplicates:>{WIDTH},}  duplicates: {tally.repeated:,} within the source,"
        f" {tally.there_already:,} here already",
        f"{tally.num_rejected:>{WIDTH},}  rejected{':' if tally.num_rejected else ''}",
    ]
    return lines + [f"{'':>{WIDTH}}  {line}" for line in reasons(tally)]


def reasons(tally: Tally) -> list[str]:
    """Return a line for each reason, the commonest first, with the first line it was met in."""
    return [
        f"{count:,} {reason}; first in line {tally.first_line[reason]:,}"
        for reason, count in tally.rejected.most_common()
    ]


def whose(guild_id: int) -> str:
    """Say whose the imported jokes are."""
    if guild_id == GLOBAL:
        return "They are global: no server tells them; they train the model of everybody. For one server: --guild ID."
    return f"They belong to the server {guild_id}: it tells them, and its model may learn from them."


def summary(name: str, tally: Tally) -> str:
    """Say in a few lines of a message how the import of an attachment went."""
    duplicates = tally.repeated + tally.there_already
    counts = [f"**{tally.new:,}** new", f"{duplicates:,} here already or twice", f"{tally.num_rejected:,} rejected"]
    lines = [f"📦 {name}: {rows(tally.read)} read, {', '.join(counts)}."]
    return "\n".join(lines + [f"-# {line}" for line in reasons(tally)])


def rows(count: int) -> str:
    """Write a number of rows."""
    return "1 row" if count == 1 else f"{count:,} rows"
