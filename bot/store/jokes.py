"""The guilds' jokes: where each came from, and whether it may train a model.

What may train is worked out on every read, never stored, so that it cannot be out of date:

    import                    yes: its licence says so
    modal, slash, generated   while the consent it was added under stands
    message                   the same, and only while the operator has recorded Discord's permission

Every read names its guild; a joke never leaves the guild it was added in. The operator's global imports are those of
the guild `bot.store.bulk.GLOBAL`, which is no server.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Literal

import aiosqlite

from bot.store.consent import check_version, stand
from bot.store.database import Database, Row
from bot.store.errors import AuthorMissing, LicenceMissing
from bot.store.text import clean, normalise

Provenance = Literal["import", "modal", "slash", "generated", "message"]

STARTER_LICENCE = "CC0-1.0"
MAX_ID = 2**63 - 1  # what SQLite can hold; people type longer numbers

_MAY_TRAIN = (
    "(j.provenance = 'import' OR ("
    "  c.id IS NOT NULL AND c.withdrawn_at IS NULL AND (j.provenance <> 'message' OR :has_permission)))"
)
_SELECT = (
    f"SELECT j.*, {_MAY_TRAIN} AS trainable, c.version AS consent_version "
    "FROM jokes AS j LEFT JOIN consents AS c ON c.id = j.consent_id WHERE j.guild_id = :guild_id "
)


@dataclass(frozen=True, slots=True)
class Joke:
    """A joke as it stood when it was read. `author_id` None: an import, the bot itself, or somebody forgotten."""

    id: int
    guild_id: int
    author_id: int | None
    text: str
    provenance: Provenance
    trainable: bool
    created_at: datetime
    is_global: bool
    licence: str
    consent_version: int | None


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` found or made; a duplicate is the joke that was there before."""

    joke: Joke
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jokes a guild has, and how many of them may train."""

    total: int
    trainable: int


@dataclass(frozen=True, slots=True)
class Imported:
    """How an import went."""

    added: int
    duplicates: int


class Jokes:
    """The jokes of all guilds, one guild at a time."""

    def __init__(self, database: Database, *, has_permission: bool) -> None:
        self._database = database
        self._has_permission = has_permission

    async def add(
        self,
        guild_id: int,
        author_id: int | None,
        text: str,
        provenance: Provenance,
        consent_version: int | None,
        licence: str = "",
        *,
        is_global: bool = False,
    ) -> Added:
        """Keep a joke; the same joke again (see `normalise`) is reported as a duplicate, not kept twice.

        consent_version: the version the author agreed to for this joke, or None. For a message, where nothing can be
        agreed to on the spot, pass `consent.current(author_id)`. If the author adds a joke again with consent, in a
        way that may train, the kept one takes that over. Raises Refused with a sentence.
        """
        if consent_version is not None:
            check_version(consent_version)
        if author_id is None and provenance in ("modal", "slash", "message"):
            raise AuthorMissing
        values = self._values(guild_id, author_id, text, provenance, licence, is_global)

        async def work(connection: aiosqlite.Connection) -> Added:
            if consent_version is not None and provenance != "import":
                values["consent_id"] = await stand(connection, author_id, consent_version)
            is_new = await _insert(connection, values)
            if not is_new:
                await _take_over(connection, values)
            rows = await connection.execute_fetchall(_SELECT + "AND j.dedup_key = :dedup_key", values)
            return Added(_joke(next(iter(rows))), duplicate=not is_new)

        return await self._database.write(work)

    async def import_texts(
        self, guild_id: int, texts: Iterable[str], licence: str, *, is_global: bool = False
    ) -> Imported:
        """Add all texts as imports in one transaction: all of them or, if one is Refused, none."""
        all_values = [self._values(guild_id, None, text, "import", licence, is_global) for text in texts]

        async def work(connection: aiosqlite.Connection) -> Imported:
            added = sum([await _insert(connection, values) for values in all_values])
            return Imported(added, duplicates=len(all_values) - added)

        return await self._database.write(work)

    async def import_starter(self, guild_id: int) -> Imported:
        """Add the starter pack that comes with the project; again adds only what is missing."""
        return await self.import_texts(guild_id, starter_texts(), STARTER_LICENCE)

    async def get(self, guild_id: int, joke_id: int) -> Joke | None:
        """Return one joke of this guild, or None."""
        if not 0 < joke_id <= MAX_ID:
            return None
        return await self._one("AND j.id = :joke_id", guild_id, joke_id=joke_id)

    async def random(self, guild_id: int) -> Joke | None:
        """Return any joke of this guild, or None if it has none."""
        return await self._one("ORDER BY random() LIMIT 1", guild_id)

    async def latest(self, guild_id: int, limit: int) -> list[Joke]:
        """Return the newest jokes, newest first."""
        return await self._many("ORDER BY j.id DESC LIMIT :limit", guild_id, limit=max(0, limit))

    async def search(self, guild_id: int, words: str, limit: int) -> list[Joke]:
        """Return jokes that contain every word, newest first; nothing that people type has a special meaning.

        Case, accents' spelling and punctuation are ignored as in `normalise`; without any word nothing is found.
        """
        parts = normalise(words).split()
        if not parts:
            return []
        lacks_one = "SELECT 1 FROM json_each(:parts) AS part WHERE instr(j.dedup_key, part.value) = 0"
        clause = f"AND NOT EXISTS ({lacks_one}) ORDER BY j.id DESC LIMIT :limit"
        return await self._many(clause, guild_id, parts=json.dumps(parts), limit=max(0, limit))

    async def trainable(self, guild_id: int) -> list[Joke]:
        """Return every joke that may train this guild's model now, oldest first: the snapshot for a fine-tune."""
        return await self._many(f"AND {_MAY_TRAIN} ORDER BY j.id", guild_id)

    async def count(self, guild_id: int) -> Counts:
        """Return how many jokes the guild has, and how many of them may train."""
        row = await self._database.row(
            f"SELECT count(*) AS total, total(trainable) AS trainable FROM ({_SELECT})", self._parameters(guild_id)
        )
        assert row is not None
        return Counts(total=row["total"], trainable=int(row["trainable"]))

    async def remove(self, guild_id: int, joke_id: int) -> bool:
        """Delete one joke of this guild; False if there is none of that number."""
        if not 0 < joke_id <= MAX_ID:
            return False
        sql = "DELETE FROM jokes WHERE guild_id = :guild_id AND id = :joke_id"
        parameters = {"guild_id": guild_id, "joke_id": joke_id}
        return await self._database.write(lambda connection: _changed(connection, sql, parameters)) == 1

    async def forget_author(self, user_id: int) -> int:
        """Erase a person in every guild, off the disk too: jokes, consents, their id on imports and jobs.

        Returns how many jokes went.
        """
        person = {"user_id": user_id}

        async def work(connection: aiosqlite.Connection) -> int:
            deleted = await _changed(
                connection, "DELETE FROM jokes WHERE author_id = :user_id AND provenance <> 'import'", person
            )
            await connection.execute("UPDATE jokes SET author_id = NULL WHERE author_id = :user_id", person)
            await connection.execute("DELETE FROM consents WHERE user_id = :user_id", person)
            await connection.execute("UPDATE jobs SET started_by = NULL WHERE started_by = :user_id", person)
            await connection.execute("UPDATE jobs SET decided_by = NULL WHERE decided_by = :user_id", person)
            await connection.execute("DELETE FROM duel_votes WHERE user_id = :user_id", person)
            await connection.execute("DELETE FROM votes WHERE user_id = :user_id", person)
            await connection.execute("DELETE FROM answers WHERE asker_id = :user_id AND topic <> ''", person)
            await connection.execute("UPDATE answers SET asker_id = NULL WHERE asker_id = :user_id", person)
            return deleted

        deleted = await self._database.write(work)
        await self._database.empty_log()
        return deleted

    def _values(
        self, guild_id: int, author_id: int | None, text: str, provenance: Provenance, licence: str, is_global: bool
    ) -> dict[str, Any]:
        text = clean(text)
        if provenance == "import" and not licence.strip():
            raise LicenceMissing
        assert provenance == "import" or not is_global, "only imports can be global"
        return self._parameters(guild_id) | {
            "author_id": author_id,
            "text": text,
            "dedup_key": normalise(text),
            "provenance": provenance,
            "consent_id": None,
            "licence": licence.strip(),
            "is_global": is_global,
            "now": time.time(),
        }

    def _parameters(self, guild_id: int, **more: Any) -> dict[str, Any]:
        return {"guild_id": guild_id, "has_permission": self._has_permission, **more}

    async def _one(self, clause: str, guild_id: int, **parameters: Any) -> Joke | None:
        row = await self._database.row(_SELECT + clause, self._parameters(guild_id, **parameters))
        return None if row is None else _joke(row)

    async def _many(self, clause: str, guild_id: int, **parameters: Any) -> list[Joke]:
        return [
            _joke(row) for row in await self._database.rows(_SELECT + clause, self._parameters(guild_id, **parameters))
        ]


def starter_texts() -> list[str]:
    """Return the jokes of the starter pack, written for this project (CC0-1.0)."""
    lines = files("bot.store").joinpath("starter_jokes.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


async def _insert(connection: aiosqlite.Connection, values: dict[str, Any]) -> bool:
    """Insert unless the guild has the joke; the unique index decides. Return whether it is new."""
    sql = (
        "INSERT INTO jokes "
        "(guild_id, author_id, text, dedup_key, provenance, consent_id, licence, is_global, created_at) VALUES "
        "(:guild_id, :author_id, :text, :dedup_key, :provenance, :consent_id, :licence, :is_global, :now) "
        "ON CONFLICT (guild_id, dedup_key) DO NOTHING"
    )
    return await _changed(connection, sql, values) == 1


async def _take_over(connection: aiosqlite.Connection, values: dict[str, Any]) -> None:
    """Let the author's own second, consented submission replace a first one that could not train."""
    await connection.execute(
        "UPDATE jokes SET text = :text, provenance = :provenance, consent_id = :consent_id "
        "WHERE guild_id = :guild_id AND dedup_key = :dedup_key AND author_id = :author_id "
        "AND :consent_id IS NOT NULL AND provenance <> 'import' AND (provenance = 'message' OR ("
        "  :provenance <> 'message' AND "
        "  NOT EXISTS (SELECT 1 FROM consents WHERE id = consent_id AND withdrawn_at IS NULL)))",
        values,
    )


async def _changed(connection: aiosqlite.Connection, sql: str, parameters: dict[str, Any]) -> int:
    async with connection.execute(sql, parameters) as cursor:
        return cursor.rowcount


def _joke(row: Row) -> Joke:
    return Joke(
        id=row["id"],
        guild_id=row["guild_id"],
        author_id=row["author_id"],
        text=row["text"],
        provenance=row["provenance"],
        trainable=bool(row["trainable"]),
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        is_global=bool(row["is_global"]),
        licence=row["licence"],
        consent_version=row["consent_version"],
    )
