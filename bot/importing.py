"""Imports jokes from a source into the collection: each row is new, a duplicate, or rejected with a reason.

    records ─▶ one text ─▶ clean ─▶ seen in this source? ─▶ batch of 1,000 ─▶ one transaction ─▶ new | there already
                  └───────── rejected, by reason

An import that is stopped leaves whole batches; run again, it skips what is there. A dry run goes the same way and
writes nothing. What a server's people wrote is never imported as anything else: a file cannot carry their consent.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from bot.importing_records import NOT_DECODED, Record
from bot.importing_sources import Source
from bot.store.bulk import Draft
from bot.store.errors import BadCharacters, TooLong, TooShort
from bot.store.text import MAX_CHARACTERS, MIN_CHARACTERS, clean_and_key
from bot.ui.text import is_unwelcome

BATCH = 1000  # rows in a transaction: some 20 ms of the one writer's lock
NUM_SAMPLES = 5

EMPTY = "empty"
NO_TEXT = "not a text (a number, a list, nothing but signs, or characters that cannot be stored)"
TOO_SHORT = f"too short (under {MIN_CHARACTERS} characters)"
TOO_LONG = f"too long (over {MAX_CHARACTERS:,} characters; nothing is cut)"
FILTERED = "filtered (a link, a mention, a slur, or what a site leaves of a removed post)"
PEOPLES = "written by people of a server (a file cannot carry their consent)"
REMOVED = {"[removed]", "[deleted]", "removed", "deleted"}
OF_PEOPLE = {"modal", "slash", "generated", "message"}


class Collection(Protocol):
    """Where imports go: `bot.store.bulk.Bulk`."""

    async def known(self, guild_id: int, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that are there."""
        ...

    async def add(self, guild_id: int, drafts: Sequence[Draft]) -> list[bool]:
        """Add what is not there, in one transaction; return for each draft whether it is new."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What to import where. `columns` are joined by a space. `licence` None: a row's own, else `fallback_licence`."""

    columns: tuple[str, ...]
    guild_id: int
    fallback_licence: str
    licence: str | None = None
    dry_run: bool = False


@dataclass(slots=True)
class Tally:
    """How an import went so far. `first_line` has, by reason, where it was first met."""

    read: int = 0
    new: int = 0
    repeated: int = 0
    there_already: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, int] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)

    @property
    def num_rejected(self) -> int:
        """Rows that are no jokes, for any reason."""
        return self.rejected.total()

    @property
    def is_useful(self) -> bool:
        """Whether at least one row was a joke."""
        return self.read > self.num_rejected

    def reject(self, reason: str, line: int) -> None:
        """Count a row that is left out."""
        self.rejected[reason] += 1
        self.first_line.setdefault(reason, line)


async def run(
    source: Source, plan: Plan, collection: Collection | None, tally: Tally, *, told: Callable[[], None] = lambda: None
) -> None:
    """Import all of a source, counting into `tally`; `told` is called after each batch.

    collection None: a dry run where there is no collection yet. Raises BadSource, StoreError; what `tally` counted
    until then is done.
    """
    records = source.records(_needed(source.columns, plan))
    seen: set[bytes] = set()
    while batch := await asyncio.to_thread(lambda: list(islice(records, BATCH))):
        mine = Tally()
        drafts, of_people = await asyncio.to_thread(_sort, batch, plan, mine, seen)
        await _keep(drafts, plan, collection, mine)
        await _look_up(of_people, plan, collection, mine)
        _add(tally, mine)
        told()


async def _keep(drafts: list[Draft], plan: Plan, collection: Collection | None, tally: Tally) -> None:
    if not drafts:
        return
    if collection is None:
        are_new = [True] * len(drafts)
    elif plan.dry_run:
        known = await collection.known(plan.guild_id, [draft.key for draft in drafts])
        are_new = [draft.key not in known for draft in drafts]
    else:
        are_new = await collection.add(plan.guild_id, drafts)
    tally.new += sum(are_new)
    tally.there_already += len(drafts) - sum(are_new)
    fresh = (draft.text for draft, is_new in zip(drafts, are_new, strict=True) if is_new)
    tally.samples += islice(fresh, NUM_SAMPLES)


async def _look_up(of_people: list[tuple[int, str]], plan: Plan, collection: Collection | None, tally: Tally) -> None:
    """Count people's own jokes, (line, key) each: those of this very collection are there, others stay out."""
    keys = [key for _, key in of_people]
    known = await collection.known(plan.guild_id, keys) if collection is not None and keys else set()
    for line, key in of_people:
        if key in known:
            tally.there_already += 1
        else:
            tally.reject(PEOPLES, line)


def _sort(batch: list[Record], plan: Plan, tally: Tally, seen: set[bytes]) -> tuple[list[Draft], list[tuple[int, str]]]:
    """Return the batch's jokes that are new to this source, and people's own; count the rest."""
    drafts: list[Draft] = []
    of_people: list[tuple[int, str]] = []
    for record in batch:
        tally.read += 1
        joke = _read(record, plan.columns)
        if isinstance(joke, str):
            tally.reject(joke, record.line)
            continue
        text, key = joke
        mark = hashlib.blake2b(key.encode(), digest_size=16).digest()
        if mark in seen:
            tally.repeated += 1
            continue
        seen.add(mark)
        if record.values.get("provenance") in OF_PEOPLE:
            of_people.append((record.line, key))
        else:
            drafts.append(Draft(text, key, _licence(record, plan)))
    return drafts, of_people


def _read(record: Record, columns: Sequence[str]) -> tuple[str, str] | str:
    """Return a row's (text, key), or the reason why it has none."""
    if record.broken is not None:
        return record.broken
    parts = [record.values.get(column) for column in columns]
    if any(part is not None and not isinstance(part, str) for part in parts):
        return NO_TEXT
    text = " ".join(stripped for part in parts if (stripped := (part or "").strip()))
    if not text:
        return EMPTY
    try:
        text, key = clean_and_key(text)
    except TooShort:
        return TOO_SHORT
    except TooLong:
        return TOO_LONG
    except BadCharacters:
        return NOT_DECODED if any("\udc80" <= c <= "\udcff" for c in text) else NO_TEXT
    if not any(c.isalpha() for c in text):
        return NO_TEXT
    return FILTERED if text.casefold() in REMOVED or is_unwelcome(text) else (text, key)


def _licence(record: Record, plan: Plan) -> str:
    of_row: Any = record.values.get("licence")
    return plan.licence or (of_row.strip() if isinstance(of_row, str) else "") or plan.fallback_licence


def _needed(columns: Sequence[str], plan: Plan) -> list[str]:
    """The columns to read: the jokes', and those in which our own exports say what a row is."""
    return [*plan.columns, *(c for c in ("provenance", "licence") if c in columns and c not in plan.columns)]


def _add(total: Tally, batch: Tally) -> None:
    total.read += batch.read
    total.new += batch.new
    total.repeated += batch.repeated
    total.there_already += batch.there_already
    total.rejected += batch.rejected
    total.first_line = batch.first_line | total.first_line
    total.samples = (total.samples + batch.samples)[:NUM_SAMPLES]
