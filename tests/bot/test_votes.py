"""👍 and 👎 under jokes, on real discord.py against the playground."""

import asyncio
import json
from pathlib import Path
from typing import Any

from bot.store import Tally
from tests.bot.test_commands import ask, words
from tests.support.fake_service import Fail, FakeService, Until
from tests.support.people import Person
from tests.support.stage import Stage, on_stage

Json = dict[str, Any]


def buttons(message: Json) -> dict[str, str | None]:
    """Labels of a message's buttons by emoji."""
    shown = [button for row in message["components"] for button in row["components"]]
    return {button["emoji"]["name"]: button.get("label") for button in shown}


async def told(stage: Stage, person: Person, text: str = "!joke") -> Json:
    """Ask for a joke; returns the answer as both people see it."""
    answer = await ask(person, text)
    for other in (stage.robin, stage.morgan):
        await other.wait_for(lambda m: m["id"] == answer["id"] and "👍" in buttons(m))
    return answer


async def counted(stage: Stage, message: Json, up: str | None, down: str | None) -> None:
    """Wait until the buttons show these counts."""
    await stage.robin.wait_for(lambda m: m["id"] == message["id"] and buttons(m) == {"👍": up, "👎": down})


async def test_votes_are_counted_on_the_buttons_one_a_person_and_changeable(stage: Stage) -> None:
    joke = await told(stage, stage.robin)
    assert buttons(joke) == {"👍": None, "👎": None}, "no counts before the first vote"
    await stage.robin.click(joke, "👍")
    await counted(stage, joke, "1", None)
    await stage.morgan.click(joke, "👍")
    await counted(stage, joke, "2", None)
    await stage.robin.click(joke, "👎")
    await counted(stage, joke, "1", "1")
    await stage.robin.click(joke, "👎")
    await counted(stage, joke, "1", None)
    assert (await stage.robin.wait_for(lambda m: m["id"] == joke["id"]))["content"] == joke["content"]


async def test_votes_go_on_after_a_restart(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        joke = await told(stage, stage.robin)
        await stage.robin.click(joke, "👍")
        await counted(stage, joke, "1", None)
        playground = stage.playground
        await stage.bot.close()
        async with on_stage(service.socket_path, tmp_path, playground=playground) as again:
            await again.morgan.messages()
            await again.morgan.click(joke, "👎")
            seen = await again.robin.wait_for(lambda m: m["id"] == joke["id"] and "1" in buttons(m).values())
            assert buttons(seen) == {"👍": "1", "👎": "1"}


async def test_two_voted_answers_to_one_topic_become_a_pair_of_what_the_model_wrote(
    service: FakeService, stage: Stage
) -> None:
    service.answer = [" A **bold** cat", " joke. "]
    await stage.robin.command("joke", topic="cats")
    good = await stage.robin.wait_for(lambda m: "👍" in buttons(m))
    service.answer = [" A dull one."]
    await stage.robin.command("joke", topic="a cat")
    bad = await stage.robin.wait_for(lambda m: "👍" in buttons(m) and m["id"] != good["id"])
    await stage.robin.click(good, "👍")
    await stage.robin.click(bad, "👎")
    [pair] = await stage.store.votes.preferences(stage.guild_id)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("JOKE about cats:", "A **bold** cat joke.", "A dull one.")


async def test_what_was_cut_short_or_is_no_joke_cannot_be_voted_on(service: FakeService, stage: Stage) -> None:
    service.answer = ["Half a", Fail("The model broke.", "engine_dead")]
    assert (await ask(stage.robin, "!joke"))["components"] == []
    service.answer = ["Once upon", " a time."]
    assert (await ask(stage.robin, "!complete Tell"))["components"] == []
    service.answer = ["Stopped", Until(asyncio.Event())]
    await stage.robin.say("!joke")
    growing = await stage.robin.wait_for(lambda m: m["content"].startswith("Stopped") and m["components"])
    await stage.robin.click(growing, "Stop")
    ended = await stage.robin.wait_for(lambda m: m["id"] == growing["id"] and "*Stopped.*" in m["content"])
    assert ended["components"] == []


async def test_a_vote_on_a_forgotten_joke_says_so(stage: Stage) -> None:
    joke = await told(stage, stage.robin, "!joke about my garden")
    await stage.store.jokes.forget_author(int(stage.robin.id))
    await stage.morgan.click(joke, "👍")
    sentence = await stage.morgan.wait_for(lambda m: "I have forgotten this joke" in m["content"])
    assert sentence["flags"] & 64, "only the person who pressed sees it"
    assert await stage.store.votes.tally(int(joke["id"])) == Tally(0, 0)


async def test_the_buttons_ids_are_within_discords_limits_and_the_same_for_every_joke(stage: Stage) -> None:
    first, second = await told(stage, stage.robin), await told(stage, stage.morgan)
    ids = [[b["custom_id"] for row in m["components"] for b in row["components"]] for m in (first, second)]
    assert ids == [["vote:up", "vote:down"]] * 2


async def voted(stage: Stage, number: int) -> None:
    """Store pairs of answers that Morgan likes and dislikes, as if they had been told and voted on."""
    for place in range(2 * number):
        message, verb = 10_000 + place, "liked" if place % 2 else "disliked"
        told = {"prompt": "JOKE:", "text": f"Number {place} is {verb}.", "model": "jokes-mini"}
        await stage.store.votes.told(stage.guild_id, message, int(stage.robin.id), "", "message", **told)
        await stage.store.votes.vote(message, int(stage.morgan.id), 1 if place % 2 else -1)


async def test_training_on_votes_sends_pairs_of_what_the_model_wrote(service: FakeService, stage: Stage) -> None:
    await voted(stage, 3)
    started = await ask(stage.morgan, "!finetune start votes")
    assert "**Training from votes**" in words(started)
    [body] = service.bodies("/v1/fine_tuning/jobs")
    assert body["method"] == {"type": "dpo", "dpo": {"adapter": "lora"}}
    assert body["model"] == "jokes-mini"
    rows = [json.loads(line) for line in service.files["file-1"].splitlines()]
    assert len(rows) == 3
    assert {row["prompt"] for row in rows} == {"JOKE:"}
    assert all(row["chosen"].endswith(" liked.") and row["rejected"].endswith("disliked.") for row in rows)
    assert all(row["id"].count("-") == 1 for row in rows)
    assert service.deleted_files == ["file-1"]


async def test_whose_votes_a_training_learned_from_is_traced_when_they_leave(stage: Stage) -> None:
    await voted(stage, 3)
    await ask(stage.morgan, "!finetune start votes")
    assert [each.num_rows for each in await stage.store.lineage.holding(int(stage.morgan.id))] == [6]
    assert await stage.store.lineage.holding(int(stage.robin.id)) == [], "asked for jokes, but brought no words"


async def test_too_few_votes_are_refused_with_the_numbers(service: FakeService, stage: Stage) -> None:
    answer = words(await ask(stage.morgan, "!finetune start votes"))
    assert "nothing to train on yet" in answer
    assert "0 of my jokes here have votes (0 in all), which give 0 pairs" in answer
    await voted(stage, 2)
    service.refuse("/v1/fine_tuning/jobs", 400, "There are 2 pairs; 50 are needed.", "too_few_examples")
    answer = words(await ask(stage.morgan, "!finetune start votes"))
    assert "There are 2 pairs; 50 are needed.\n4 of my jokes here have votes (4 in all), which give 2 pairs" in answer
    assert await stage.store.jobs.active(stage.guild_id) is None


async def test_what_cannot_be_trained_on_is_answered_with_what_can(service: FakeService, stage: Stage) -> None:
    answer = words(await ask(stage.morgan, "!finetune start vote"))
    assert "on `jokes`" in answer
    assert "on `votes`" in answer
    await stage.store.jokes.import_starter(stage.guild_id)
    await stage.morgan.command("finetune start", on="jokes")
    await stage.morgan.wait_for(lambda m: "Training this server's jokes" in m["content"])
    assert service.bodies("/v1/fine_tuning/jobs")[-1]["method"]["type"] == "supervised"
