"""What the bot keeps: jokes, consents, guilds' settings, fine-tune jobs, all in one SQLite file.

async with await Store.open(home / "punchline.db") as store:
    added = await store.jokes.add(guild_id, author_id, text, "modal", CONSENT_VERSION)
"""

import time
from pathlib import Path
from typing import Self

from bot.store.bulk import GLOBAL, Bulk
from bot.store.consent import CONSENT_TEXT, CONSENT_VERSION, Consents
from bot.store.database import Database
from bot.store.duels import Choice, Duel, Duels, Record
from bot.store.errors import CannotOpen, DuelOpen, JobActive, Refused, StoreError, StoreFailed
from bot.store.jobs import Decision, Job, Jobs, Outcome
from bot.store.joke_models import JokeModels
from bot.store.jokes import Added, Counts, Imported, Joke, Jokes, Provenance
from bot.store.lineage import Holder, Lineage, RowKind
from bot.store.settings import GuildSettings
from bot.store.votes import Preference, Tally, Vote, VoteCounts, Votes

__all__ = [
    "CONSENT_TEXT",
    "CONSENT_VERSION",
    "GLOBAL",
    "Added",
    "Bulk",
    "CannotOpen",
    "Choice",
    "Consents",
    "Counts",
    "Decision",
    "Duel",
    "DuelOpen",
    "Duels",
    "GuildSettings",
    "Holder",
    "Imported",
    "Job",
    "JobActive",
    "Jobs",
    "Joke",
    "JokeModels",
    "Jokes",
    "Lineage",
    "Outcome",
    "Preference",
    "Provenance",
    "Record",
    "Refused",
    "RowKind",
    "Store",
    "StoreError",
    "StoreFailed",
    "Tally",
    "Vote",
    "VoteCounts",
    "Votes",
]


class Store:
    """The open database by topic. Make it with `open`; end it with `close` or by leaving `async with`."""

    def __init__(self, database: Database, *, has_permission: bool) -> None:
        self._database = database
        self.jokes = Jokes(database, has_permission=has_permission)
        self.bulk = Bulk(database)
        self.consent = Consents(database)
        self.settings = GuildSettings(database)
        self.jobs = Jobs(database)
        self.joke_models = JokeModels(database)
        self.duels = Duels(database)
        self.lineage = Lineage(database)
        self.votes = Votes(database, has_permission=has_permission)

    @classmethod
    async def open(cls, path: Path, discord_permission: str | None = None) -> Self:
        """Open or create the database; raises CannotOpen with a sentence that says what to do.

        discord_permission: reference and date of Discord's written permission to train on messages. While it is set,
        jokes that came as messages may train too (with consent); each reference is kept with the time it first came.
        """
        reference = (discord_permission or "").strip()
        database = await Database.open(path)
        if reference:
            parameters = {"reference": reference, "now": time.time()}
            sql = "INSERT INTO discord_permissions VALUES (:reference, :now) ON CONFLICT DO NOTHING"
            await database.write(lambda connection: connection.execute_fetchall(sql, parameters))
        return cls(database, has_permission=bool(reference))

    async def close(self) -> None:
        """Finish running writes and close the file. Safe to call twice."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
