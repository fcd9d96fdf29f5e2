"""The blind duel: nobody learns who is who before its end, a vote a person, kept over restarts; a scripted service."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.cogs.duel import base_of, split
from tests.bot.test_commands import ask, words
from tests.support.fake_service import FakeService, Until, card
from tests.support.stage import Stage, on_stage

Json = dict[str, Any]
BASE, OTHER = "jokes-mini", "gpt2"


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with FakeService() as service:
        service.models.append(card(OTHER))
        service.answers = {BASE: ["The base", " joke."], OTHER: ["The other joke @everyone\n# loud"]}
        yield service


async def fight(stage: Stage, text: str = f"!duel {BASE} {OTHER}") -> Json:
    """Start a duel; returns its message when its buttons are there."""
    message = await ask(stage.robin, text)
    for person in (stage.robin, stage.morgan):
        await person.wait_for(lambda m: m["id"] == message["id"] and m["components"])
    return stage.robin.seen[message["id"]]


async def ended(stage: Stage, message: Json, text: str = "was `") -> str:
    """Wait for the end of a duel, as it can be read."""
    done = await stage.morgan.wait_for(
        lambda m: m["id"] == message["id"] and text in m["content"] and not m["components"]
    )
    return str(done["content"])


def side_of(message: Json, text: str) -> str:
    """Say whether an answer stands under A or B."""
    return "A" if message["content"].index(text) < message["content"].index("**B**") else "B"


async def test_nothing_says_who_is_who_until_enough_votes_reveal_it(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path, duel_votes=2) as stage:
        message = await fight(stage)
        assert "**Blind duel**" in message["content"]
        side = side_of(message, "The base joke.")
        await stage.robin.click(message, f"{side} is funnier")
        await stage.robin.wait_for(lambda m: f"Your vote is for **{side}**" in m["content"] and m["flags"] & 64)
        await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and "1 vote so far" in m["content"])
        for version in stage.robin.versions[message["id"]]:
            said = json.dumps({name: part for name, part in version.items() if name != "referenced_message"})
            assert BASE not in said
            assert OTHER not in said
        assert sorted(b["custom_id"] for b in message["components"][0]["components"]) == ["duel:A", "duel:B"]
        await stage.morgan.click(message, f"{side} is funnier")
        shown = await ended(stage, message)
        assert f"**{side} wins**, 2 to 0." in shown
        assert f"**{side} was `{BASE}`**" in shown
        assert "won 1, lost 0 and drew 0" in shown or "won 0, lost 1 and drew 0" in shown
        record = await stage.store.duels.record(stage.guild_id, BASE, OTHER)
        assert (record.won, record.lost) == (1, 0)


async def test_a_vote_can_be_changed_and_counts_once(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path, duel_votes=2) as stage:
        message = await fight(stage)
        for choice in "AAB":
            await stage.robin.click(message, f"{choice} is funnier")
        await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and "1 vote so far" in m["content"])
        await stage.morgan.click(message, "A is funnier")
        assert "A draw, 1 to 1." in await ended(stage, message)


async def test_the_sides_are_drawn_by_lot(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path, duel_votes=1) as stage:
        seen = set()
        for _ in range(40):  # all on one side by chance: 2 in 2 ** 40
            message = await fight(stage)
            seen.add(side_of(message, "The base joke."))
            await stage.robin.click(message, "A is funnier")
            await ended(stage, message)
            if len(seen) == 2:
                return
    pytest.fail(f"always {seen}")


async def test_time_ends_a_duel_without_votes(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path, duel_s=0.3) as stage:
        message = await ask(stage.robin, f"!duel {BASE} {OTHER}")
        assert "Nobody voted." in await ended(stage, message)


async def test_a_duel_goes_on_after_a_restart_of_the_bot(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path, duel_votes=2) as stage:
        message = await fight(stage)
        await stage.robin.click(message, "A is funnier")
        await stage.bot.close()
        await stage.store.close()
        async with on_stage(service.socket_path, tmp_path, playground=stage.playground, duel_votes=9) as again:
            again.morgan.seen[message["id"]] = message
            await again.morgan.click(message, "B is funnier")
            assert "A draw, 1 to 1." in await ended(again, message)


async def test_a_duel_whose_time_ended_while_the_bot_was_away_is_revealed(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        closed = await fight(stage)
        duel = await stage.store.duels.open_in(int(closed["channel_id"]))
        assert duel is not None
        await stage.bot.close()
        await stage.store.duels.vote(duel.id, 1, "B")
        await stage.store.duels.close(duel.id)  # as a bot does that dies before it can say so
        await stage.store.close()
        async with on_stage(service.socket_path, tmp_path, playground=stage.playground):
            assert "**B wins**, 1 to 0." in await ended(stage, closed)  # these people have been there all the while


async def test_one_duel_a_channel_and_late_votes_are_told(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        message = await fight(stage)
        assert "already open in this channel" in words(await ask(stage.robin, "!duel"))
        duel = await stage.store.duels.open_in(int(message["channel_id"]))
        assert duel is not None
        await stage.store.duels.close(duel.id)
        await stage.robin.click(message, "A is funnier")
        await stage.robin.wait_for(lambda m: "This duel is over" in m["content"] and m["flags"] & 64)


async def test_two_who_ask_at_once_get_one_duel(service: FakeService, stage: Stage) -> None:
    gate = asyncio.Event()
    service.answers[BASE] = [Until(gate), *service.answers[BASE]]
    first = asyncio.create_task(fight(stage))
    async with asyncio.timeout(10):
        await service.streaming.wait()
    refused = words(await ask(stage.morgan, "!duel"))
    gate.set()
    await first
    assert "already open in this channel" in refused
    assert len(await stage.store.duels.unrevealed()) == 1


async def test_what_a_withdrawn_model_said_is_taken_off_at_the_end_and_the_votes_count(
    service: FakeService, tmp_path: Path
) -> None:
    async with on_stage(service.socket_path, tmp_path, duel_votes=2) as stage:
        tuned = f"ft:{BASE}:{stage.guild_id}:ftjob-1"
        service.models.append(card(tuned))
        service.answers[tuned] = ["Robin's own joke."]
        await stage.store.lineage.record("ftjob-1", [("joke", 1, int(stage.robin.id))])
        await stage.store.jobs.record(stage.guild_id, "ftjob-1", 5, None, None)
        await stage.store.jobs.finish("ftjob-1", "succeeded", tuned)
        await stage.store.joke_models.use(stage.guild_id, tuned)
        message = await fight(stage, "!duel")
        side = side_of(message, "Robin's own joke.")
        await stage.robin.click(message, f"{side} is funnier")
        await stage.store.lineage.withdraw(int(stage.robin.id))
        await stage.morgan.click(message, f"{side} is funnier")
        shown = await ended(stage, message)
    assert f"**{side} wins**, 2 to 0." in shown
    assert "Robin's own joke." not in shown
    assert "> (withdrawn: somebody took back what this model had learned from)" in shown
    assert "> The base joke." in shown


async def test_a_model_that_is_gone_between_choosing_and_asking_is_a_sentence(
    service: FakeService, stage: Stage
) -> None:
    missing = {"error": {"message": "There is no model gpt2.", "code": "model_not_found"}}
    service.refusals[OTHER] = (404, missing, {})
    answer = words(await ask(stage.robin, f"!duel {BASE} {OTHER}"))
    assert "gpt2" in answer
    assert await stage.store.duels.unrevealed() == []
    del service.refusals[OTHER]
    await fight(stage)


async def test_a_duel_needs_a_server(service: FakeService, stage: Stage) -> None:
    stage.robin.channel_id = await stage.robin.open_direct(stage.robin.application_id)
    assert "works only in a server" in words(await ask(stage.robin, "!duel"))


async def test_by_default_the_live_model_duels_with_its_base(service: FakeService, stage: Stage) -> None:
    assert "no other. Name two: `/duel first second`" in words(await ask(stage.robin, "!duel"))
    tuned = f"ft:{OTHER}:{stage.guild_id}:ftjob-1"
    service.models.append(card(tuned))
    service.answers[tuned] = ["A tuned joke."]
    await stage.store.joke_models.use(stage.guild_id, tuned)
    await fight(stage, "!duel about ducks")
    bodies = service.bodies("/v1/completions")
    assert {body["model"] for body in bodies} == {tuned, OTHER}
    assert len({body["seed"] for body in bodies}) == 1
    assert all(body["prompt"].endswith("JOKE about ducks:") for body in bodies)


async def test_what_is_typed_wrong_is_explained(service: FakeService, stage: Stage) -> None:
    for text, sentence in (
        (f"!duel {BASE} {BASE}", "A model cannot duel with itself."),
        (f"!duel {BASE} gpt3", "There is no model called `gpt3`. Did you mean `gpt2`?"),
        ("!duel sentiment-mini gpt2", "cannot tell jokes"),
        (f"!duel {BASE} {OTHER} about {'a' * 101}", "That topic has 101 characters"),
    ):
        assert sentence in words(await ask(stage.robin, text)), text
    service.answers[OTHER] = service.answers[BASE]
    assert "nothing different to say" in words(await ask(stage.robin, f"!duel {BASE} {OTHER}"))
    await service.stop()
    assert "offline right now" in words(await ask(stage.robin, f"!duel {BASE} {OTHER}"))
    assert await stage.store.duels.unrevealed() == []


async def test_answers_are_quoted_and_safe(service: FakeService, stage: Stage) -> None:
    message = await fight(stage)
    assert "> The base joke." in message["content"]
    assert "@everyone" not in message["content"]
    assert "\n> \u200b# loud" in message["content"]


async def test_slash_offers_models_and_starts_a_duel(service: FakeService, stage: Stage) -> None:
    offered = await stage.robin.autocomplete("duel", "second", second="gpt")
    assert [choice["value"] for choice in offered] == [OTHER]
    await stage.robin.command("duel", first=OTHER)
    message = await stage.robin.wait_for(lambda m: "**Blind duel**" in m["content"] and m["components"])
    assert {body["model"] for body in service.bodies("/v1/completions")} == {BASE, OTHER}
    await stage.morgan.wait_for(lambda m: m["id"] == message["id"])


def test_words_and_models_are_told_apart() -> None:
    assert split(None, None, None) == ([], None)
    assert split("about", "cats", "and dogs") == ([], "cats and dogs")
    assert split("a", "about", "cats") == (["a"], "cats")
    assert split("a", "b", "about cats") == (["a", "b"], "cats")
    assert split("a", "b", None) == (["a", "b"], None)


def test_the_base_is_in_the_name_of_a_tuned_model() -> None:
    known = {"gpt2", "openai-community/gpt2-xl"}
    assert base_of("ft:gpt2:1:ftjob-1", known, BASE) == "gpt2"
    assert base_of("ft:openai-community/gpt2-xl:1:ftjob-1", known, BASE) == "openai-community/gpt2-xl"
    assert base_of("ft:gone:1:ftjob-1", known, BASE) == BASE
    assert base_of("gpt2", known, BASE) == BASE
