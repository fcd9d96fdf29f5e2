"""👍 and 👎 under jokes, on real discord.py against the playground."""

import asyncio
from pathlib import Path
from typing import Any

from bot.store import Tally
from tests.bot.test_commands import ask
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
