"""Votes on the bot's own jokes and the pairs they give, in a real database."""

import itertools
from pathlib import Path

import aiosqlite
import pytest

from bot.store import Store, Tally
from bot.store.votes import TopicFrom, topic_key
from tests.store.builders import ANN, BOB, GUILD, OTHER_GUILD, open_store

CEM = 33
_messages = itertools.count(500)


async def tell(
    store: Store,
    text: str,
    *voters: int,
    topic: str = "",
    guild: int = GUILD,
    asker: int = ANN,
    topic_from: TopicFrom = "slash",
) -> int:
    """Tell a joke; positive voters like it, negative ones do not. Returns its message."""
    message = next(_messages)
    prompt = f"JOKE about {topic}:" if topic else "JOKE:"
    await store.votes.told(
        guild, message, asker, topic, topic_from, prompt=prompt, text=text, model="ft:jokes-mini:1:a"
    )
    for voter in voters:
        await store.votes.vote(message, abs(voter), 1 if voter > 0 else -1)
    return message


async def test_each_person_has_one_vote_that_can_be_changed_and_taken_back(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        message = await tell(store, "A joke.")
        assert await store.votes.vote(message, ANN, 1) == Tally(1, 0)
        assert await store.votes.vote(message, BOB, 1) == Tally(2, 0)
        assert await store.votes.vote(message, ANN, -1) == Tally(1, 1)
    async with open_store(tmp_path) as store:
        assert await store.votes.tally(message) == Tally(1, 1)
        assert await store.votes.vote(message, ANN, -1) == Tally(1, 0)
        assert await store.votes.vote(1, ANN, 1) is None


async def test_answers_to_one_prompt_with_different_votes_are_a_pair(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await tell(store, "Liked.", ANN, BOB)
        await tell(store, "Disliked.", -ANN, -BOB)
        await tell(store, "Nobody voted.")
        await tell(store, "Elsewhere.", -ANN, guild=OTHER_GUILD)
        [pair] = await store.votes.preferences(GUILD)
        assert (pair.prompt, pair.chosen, pair.rejected) == ("JOKE:", "Liked.", "Disliked.")
        counts = await store.votes.count(GUILD)
        assert (counts.answers, counts.votes, counts.pairs) == (2, 4, 1)
        assert await store.votes.preferences(OTHER_GUILD) == []


async def test_similar_topics_are_compared_and_others_are_not(tmp_path: Path) -> None:
    assert topic_key("the Black Cats!") == topic_key("a cat, black")
    assert topic_key("chess") != topic_key("ches")
    assert topic_key("the") == "the"
    async with open_store(tmp_path) as store:
        await tell(store, "Good cats.", ANN, topic="black cats")
        await tell(store, "Bad cat.", -ANN, topic="a black cat")
        await tell(store, "Bad dog.", -ANN, topic="dogs")
        [pair] = await store.votes.preferences(GUILD)
        assert (pair.prompt, pair.chosen, pair.rejected) == ("JOKE about black cats:", "Good cats.", "Bad cat.")


async def test_each_answer_is_in_one_pair_and_as_many_pairs_as_possible_are_made(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for place in range(5):
            await tell(store, f"Liked {place}.", ANN)
        for place in range(7):
            await tell(store, f"Disliked {place}.", -ANN)
        found = await store.votes.preferences(GUILD)
        assert len(found) == 5
        used = [answer for pair in found for answer in (pair.chosen_id, pair.rejected_id)]
        assert len(set(used)) == len(used)
        assert all(pair.chosen.startswith("Liked") for pair in found)
        assert all(pair.rejected.startswith("Disliked") for pair in found)


async def test_the_same_votes_or_the_same_words_are_no_preference(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await tell(store, "One.", ANN)
        await tell(store, "Two.", BOB)
        await tell(store, "Same words!", ANN, topic="cats")
        await tell(store, "same words", -ANN, topic="cats")
        assert await store.votes.preferences(GUILD) == []


@pytest.mark.parametrize(("permission", "num_pairs"), [(None, 0), ("ticket 7, 2026-01-05", 1)])
async def test_topics_that_came_as_messages_train_only_with_discords_permission(
    tmp_path: Path, permission: str | None, num_pairs: int
) -> None:
    async with open_store(tmp_path, permission) as store:
        await tell(store, "Good.", ANN, topic="cats", topic_from="message")
        await tell(store, "Bad.", -ANN, topic="cats", topic_from="message")
        assert len(await store.votes.preferences(GUILD)) == num_pairs


async def test_a_message_without_a_topic_brings_nothing_of_a_person_and_trains(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await tell(store, "Good.", ANN, topic_from="message")
        await tell(store, "Bad.", -ANN, topic_from="message")
        assert len(await store.votes.preferences(GUILD)) == 1


async def test_a_forgotten_person_leaves_neither_votes_nor_topics(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        theirs = await tell(store, "About their topic.", BOB, CEM, topic="my secret garden")
        plain = await tell(store, "About nothing.", ANN, -BOB)
        assert sorted(await store.votes.people([1, 2])) == [(1, ANN), (1, BOB), (1, CEM), (2, ANN), (2, BOB)]
        await store.jokes.forget_author(ANN)
        assert await store.votes.vote(theirs, BOB, 1) is None
        assert await store.votes.tally(plain) == Tally(0, 1)
    assert b"secret garden" not in (tmp_path / "punchline.db").read_bytes()


async def test_answers_without_votes_are_forgotten_after_a_month(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        unvoted, voted = await tell(store, "Old, unheard."), await tell(store, "Old, liked.", ANN)
        async with aiosqlite.connect(tmp_path / "punchline.db") as raw:
            await raw.execute("UPDATE answers SET told_at = told_at - 31 * 86400")
            await raw.commit()
        await tell(store, "New.")
        assert await store.votes.vote(unvoted, BOB, 1) is None
        assert await store.votes.vote(voted, BOB, 1) == Tally(2, 0)
