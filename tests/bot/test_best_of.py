"""`bot.joke_candidates`: several jokes are drawn and votes choose which is told, where they have something to say."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bot.test_commands import ask, words
from tests.bot.test_taste import votes_for_questions
from tests.support.fake_service import Fail, FakeService, Queue, Until
from tests.support.stage import Stage, on_stage

QUESTION, ADVERT = "Why did the zebra cross the street?", "Buy a zebra today."


@pytest.fixture
async def stage(service: FakeService, tmp_path: Path) -> AsyncIterator[Stage]:
    async with on_stage(service.socket_path, tmp_path, joke_candidates=3) as stage:
        yield stage


async def vote_for_questions(stage: Stage) -> None:
    for place, (text, net) in enumerate(votes_for_questions(), start=1):
        told = {"prompt": "JOKE:", "text": text, "model": "jokes-mini"}
        await stage.store.votes.told(stage.guild_id, place, 1, "", "message", **told)
        await stage.store.votes.vote(place, 1, 1 if net > 0 else -1)


def candidates(service: FakeService) -> int:
    return len(service.bodies("/v1/completions"))


async def test_votes_choose_which_of_several_jokes_is_told(service: FakeService, stage: Stage) -> None:
    await vote_for_questions(stage)
    service.next_answers = [[Queue(2, 3.0), ADVERT], ["Why did the zebra", " cross the street?"], ["Zebras."]]
    joke = await ask(stage.robin, "!joke about zebras")
    assert joke["content"] == QUESTION
    assert joke["components"], "it can be voted on like any other"
    assert candidates(service) == 3
    assert {body["prompt"] for body in service.bodies("/v1/completions")} == {"JOKE about zebras:"}
    shown = [version["content"] for version in stage.robin.versions[joke["id"]]]
    assert not [text for text in shown if "zebra" in text.lower() and not text.startswith("Why did the zebra")]


async def test_where_votes_say_nothing_one_joke_is_drawn(service: FakeService, stage: Stage) -> None:
    await ask(stage.robin, "!joke")
    assert candidates(service) == 1


async def test_without_the_setting_one_joke_is_drawn_whatever_the_votes(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        await vote_for_questions(stage)
        await ask(stage.robin, "!joke")
        assert candidates(service) == 1


async def test_a_candidate_that_breaks_is_left_out(service: FakeService, stage: Stage) -> None:
    await vote_for_questions(stage)
    service.next_answers = [[ADVERT], [QUESTION, Fail("The model broke.", "engine_dead")], ["Why did it rain?"]]
    assert words(await ask(stage.robin, "!joke")).strip() == "Why did it rain?"


async def test_stop_ends_every_candidate(service: FakeService, stage: Stage) -> None:
    await vote_for_questions(stage)
    service.answer = [Queue(1, 2.0), Until(asyncio.Event())]
    await stage.robin.say("!joke")
    waiting = await stage.robin.wait_for(lambda m: "In the queue" in m["content"])
    await stage.robin.click(waiting, "Stop")
    await stage.robin.wait_for(lambda m: m["id"] == waiting["id"] and "*Stopped.*" in m["content"])
    async with asyncio.timeout(5):
        while service.cancelled < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
