"""Which column holds the jokes: the one that is named, the obvious one, or a sentence that lists them all."""

from collections.abc import Sequence

from bot.importing_records import BadColumn

OBVIOUS = ("joke", "jokes", "text", "joketext", "shortjoke", "completion", "content", "body")
PAIRS = (("setup", "punchline"), ("setup", "delivery"), ("question", "answer"), ("title", "selftext"))
MAX_SHOWN = 20


def choose(name: str, columns: Sequence[str], asked: Sequence[str], *, how: str = "--column") -> tuple[str, ...]:
    """Return the columns to join into a joke. Raises BadColumn with a sentence; `how` is what people type for one."""
    if not columns:
        raise BadColumn(f"There are no columns in {name}.")
    if asked:
        return tuple(_found(name, columns, column, how) for column in asked)
    obvious = [c for c in columns if _plain(c) in OBVIOUS]
    if len(obvious) == 1:
        return (obvious[0],)
    if len(columns) == 1 and len(columns[0].split()) < 4:
        return (columns[0],)
    if len(columns) == 1:
        way = "say --no-header" if how == "--column" else "put a line with the column's name above it"
        raise BadColumn(
            f"The first line of {name} looks like a joke, not like the name of a column: {_shown(columns)}."
            f" If it is one, {way}; if it is a name, say it with {how}."
        )
    why = f"several columns could be it ({_shown(obvious)})" if obvious else "no column's name says so"
    raise BadColumn(
        f"Which column of {name} holds the jokes? I cannot tell: {why}. It has {_shown(columns)}."
        f" Say it like this: {how} {_suggested(columns, obvious, how)}"
    )


def _suggested(columns: Sequence[str], obvious: Sequence[str], how: str) -> str:
    """Suggest one that could be it; of a joke in two columns, both."""
    by_name = {_plain(column): column for column in columns}
    pair = next((pair for pair in PAIRS if all(name in by_name for name in pair)), None)
    if pair is None or obvious or how != "--column":
        return _quoted((obvious or list(columns))[0])
    return f" {how} ".join(_quoted(by_name[name]) for name in pair)


def _found(name: str, columns: Sequence[str], asked: str, how: str) -> str:
    if asked in columns:
        return asked
    alike = [column for column in columns if _plain(column) == _plain(asked)]
    if len(alike) == 1:
        return alike[0]
    raise BadColumn(f"{name} has no column {asked!r}. It has {_shown(columns)}. Choose with {how}.")


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _shown(columns: Sequence[str]) -> str:
    shown = ", ".join(_quoted(column[:60]) for column in columns[:MAX_SHOWN])
    return shown + (f" and {len(columns) - MAX_SHOWN} more" if len(columns) > MAX_SHOWN else "")


def _quoted(name: str) -> str:
    return name if name.isidentifier() or name.isalnum() else f'"{name}"'
