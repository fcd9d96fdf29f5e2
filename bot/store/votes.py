"""What people think of the bot's own jokes, and the preference pairs that follow from it.

    told ─ answers ─ 👍/👎 one each, changeable ─ net votes ─ pairs: same or similar topic, different net votes

Each answer stands in one pair at most, so that a pair that is held out shares no text with one that is trained on. A
topic that came as a message trains nothing unless the operator has recorded Discord's permission. Answers that nobody
voted on are forgotten after a month.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiosqlite

from bot.store.database import Database, Row
from bot.store.text import normalise

Vote = Literal[-1, 1]
TopicFrom = Literal["slash", "message"]

KEPT_UNVOTED_S = 30 * 24 * 3600.0
SMALL_WORDS = frozenset(("a", "an", "the", "my", "your", "our", "some", "of", "and", "or", "in", "on", "at", "about"))
MIN_STEM = 3  # a word this long without its plural s is still a word


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes on one answer."""

    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Preference:
    """One answer that people liked better than another, to the same or a similar topic. Ids are of answers."""

    prompt: str
    chosen: str
    rejected: str
    chosen_id: int
    rejected_id: int


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """How many answers have votes, how many votes those are, and how many pairs they give for training."""

    answers: int
    votes: int
    pairs: int


@dataclass(frozen=True, slots=True)
class _Voted:
    id: int
    topic: str
    prompt: str
    text: str
    net: int


_VOTED = (
    "SELECT a.id, a.topic, a.prompt, a.text, total(v.value) AS net FROM answers AS a JOIN votes AS v "
    "ON v.answer_id = a.id WHERE a.guild_id = :guild_id AND (a.topic_from <> 'message' OR :has_permission) "
    "GROUP BY a.id ORDER BY a.id"
)
_TALLY = (
    "SELECT total(value = 1) AS up, total(value = -1) AS down FROM votes WHERE answer_id = "
    "(SELECT id FROM answers WHERE message_id = :message_id)"
)


class Votes:
    """The guilds' answers and votes."""

    def __init__(self, database: Database, *, has_permission: bool) -> None:
        self._database = database
        self._has_permission = has_permission

    async def told(
        self,
        guild_id: int,
        message_id: int,
        asker_id: int,
        topic: str,
        topic_from: TopicFrom,
        *,
        prompt: str,
        text: str,
        model: str,
    ) -> None:
        """Remember a joke that can be voted on; forgets old ones that nobody did. topic: empty without one.

        What a model tells that was withdrawn meanwhile is not remembered.
        """
        values: dict[str, Any] = {
            "guild_id": guild_id,
            "message_id": message_id,
            "asker_id": asker_id,
            "topic": topic,
            "topic_from": topic_from if topic else "nobody",
            "prompt": prompt,
            "text": text,
            "model": model,
            "now": time.time(),
            "oldest": time.time() - KEPT_UNVOTED_S,
        }

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute(
                "DELETE FROM answers WHERE told_at < :oldest AND guild_id = :guild_id "
                "AND NOT EXISTS (SELECT 1 FROM votes WHERE answer_id = answers.id) "
                "AND id NOT IN (SELECT row_id FROM job_rows WHERE kind = 'answer')",  # lineage looks at them
                values,
            )
            await connection.execute(
                "INSERT INTO answers "
                "(guild_id, message_id, asker_id, topic, topic_from, prompt, text, model, told_at) SELECT "
                ":guild_id, :message_id, :asker_id, :topic, :topic_from, :prompt, :text, :model, :now "
                "WHERE NOT EXISTS (SELECT 1 FROM withdrawals JOIN jobs USING (job_id) WHERE jobs.model = :model)",
                values,
            )

        await self._database.write(work)

    async def vote(self, message_id: int, user_id: int, value: Vote) -> Tally | None:
        """Count a person's vote instead of their earlier one; the same again takes it back.

        Returns the votes as they are then; None for a message that is no answer that is known.
        """
        values: dict[str, Any] = {"message_id": message_id, "user_id": user_id, "value": value}

        async def work(connection: aiosqlite.Connection) -> Tally | None:
            found = await connection.execute_fetchall("SELECT id FROM answers WHERE message_id = :message_id", values)
            if not (ids := [row["id"] for row in found]):
                return None
            values["answer_id"] = ids[0]
            async with connection.execute(
                "DELETE FROM votes WHERE answer_id = :answer_id AND user_id = :user_id AND value = :value", values
            ) as cursor:
                is_taken_back = cursor.rowcount == 1
            if not is_taken_back:
                await connection.execute(
                    "INSERT INTO votes (answer_id, user_id, value) VALUES (:answer_id, :user_id, :value) "
                    "ON CONFLICT DO UPDATE SET value = excluded.value",
                    values,
                )
            rows = await connection.execute_fetchall(_TALLY, values)
            return _tally(next(iter(rows)))

        return await self._database.write(work)

    async def tally(self, message_id: int) -> Tally:
        """Return the votes on an answer."""
        row = await self._database.row(_TALLY, {"message_id": message_id})
        assert row is not None
        return _tally(row)

    async def preferences(self, guild_id: int) -> list[Preference]:
        """Return the guild's preference pairs that may train, those that people are surest of first."""
        rows = await self._database.rows(_VOTED, {"guild_id": guild_id, "has_permission": self._has_permission})
        voted = [_Voted(row["id"], row["topic"], row["prompt"], row["text"], int(row["net"])) for row in rows]
        return pairs(voted)

    async def opinions(self, guild_id: int, limit: int) -> list[tuple[str, int]]:
        """Return the newest of the guild's voted answers with their net votes."""
        rows = await self._database.rows(
            "SELECT a.text, total(v.value) AS net FROM answers AS a JOIN votes AS v ON v.answer_id = a.id "
            "WHERE a.guild_id = :guild_id GROUP BY a.id ORDER BY a.id DESC LIMIT :limit",
            {"guild_id": guild_id, "limit": limit},
        )
        return [(row["text"], int(row["net"])) for row in rows]

    async def count(self, guild_id: int) -> VoteCounts:
        """Return how much there is to learn from in a guild."""
        row = await self._database.row(
            "SELECT count(DISTINCT answer_id) AS answers, count(*) AS votes FROM votes JOIN answers AS a "
            "ON a.id = answer_id WHERE a.guild_id = :guild_id",
            {"guild_id": guild_id},
        )
        assert row is not None
        return VoteCounts(row["answers"], row["votes"], len(await self.preferences(guild_id)))

    async def people(self, answer_ids: Iterable[int]) -> list[tuple[int, int]]:
        """Return whose data answers hold, as (answer, user): who voted, and who brought the topic."""
        rows = await self._database.rows(
            "WITH wanted AS (SELECT value AS id FROM json_each(:ids)) "
            "SELECT answer_id, user_id FROM wanted JOIN votes ON answer_id = wanted.id UNION SELECT a.id, a.asker_id "
            "FROM wanted JOIN answers AS a ON a.id = wanted.id WHERE a.asker_id IS NOT NULL AND a.topic <> ''",
            {"ids": json.dumps(list(answer_ids))},
        )
        return [(row["answer_id"], row["user_id"]) for row in rows]


def topic_key(topic: str) -> str:
    """Return what similar topics have in common: "the Black Cats!" and "a cat, black" are the same."""
    words = {_stem(word) for word in normalise(topic).split()}
    return " ".join(sorted(words - SMALL_WORDS or words))


def pairs(voted: Sequence[_Voted]) -> list[Preference]:
    """Pair answers of the same topic with different net votes, each once, those that differ most first."""
    groups: dict[str, list[_Voted]] = defaultdict(list)
    for answer in voted:
        groups[topic_key(answer.topic)].append(answer)
    found = [pair for group in groups.values() for pair in _matched(group)]
    found.sort(key=lambda pair: (pair[1].net - pair[0].net, pair[0].id))
    return [
        Preference(better.prompt, better.text, worse.text, better.id, worse.id)
        for better, worse in found
        if normalise(better.text) != normalise(worse.text)
    ]


def _matched(group: list[_Voted]) -> list[tuple[_Voted, _Voted]]:
    """Match the i-th of the better half with the i-th of the worse half, as many as differ."""
    ordered = sorted(group, key=lambda answer: (-answer.net, answer.id))
    for size in range(len(ordered) // 2, 0, -1):
        matched = list(zip(ordered[:size], ordered[-size:], strict=True))
        if all(better.net > worse.net for better, worse in matched):
            return matched
    return []


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > MIN_STEM else word


def _tally(row: Row) -> Tally:
    return Tally(int(row["up"]), int(row["down"]))
