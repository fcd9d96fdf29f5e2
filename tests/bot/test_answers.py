"""Answers that grow, on real discord.py against the playground."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.fake_service import Die, Fail, FakeService, Loading, Queue, Until
from tests.support.people import is_growing
from tests.support.stage import Stage, on_stage

Json = dict[str, Any]


def done(message: Json) -> bool:
    """A bot's message without a Stop button: an answer that has ended."""
    return bool(message["author"].get("bot")) and not is_growing(message)


def growing(message: Json) -> bool:
    """An answer with text so far, and a Stop button."""
    return bool(message["author"].get("bot")) and message["content"].endswith("▌") and bool(message["components"])


async def test_a_joke_grows_by_edits_and_ends_without_a_button(service: FakeService, stage: Stage) -> None:
    more, rest = asyncio.Event(), asyncio.Event()
    service.answer = [" Why", Until(more), " did", Until(rest), " it? "]
    asked = await stage.robin.say("!joke")
    first = await stage.robin.wait_for(growing)
    assert first["content"] == "Why ▌"
    assert first["message_reference"]["message_id"] == asked
    more.set()
    await stage.robin.wait_for(lambda m: m["content"] == "Why did ▌")
    rest.set()
    last = await stage.robin.wait_for(lambda m: m["content"] == "Why did it?")
    assert last["id"] == first["id"]
    assert done(last)


async def test_the_answer_is_there_before_the_model_says_anything(service: FakeService, stage: Stage) -> None:
    service.answer = [Until(asyncio.Event())]
    await stage.robin.say("!complete Once upon a time")
    placeholder = await stage.robin.wait_for(lambda m: m["author"].get("bot"), timeout_s=3)
    assert "💭" in placeholder["content"]
    assert placeholder["components"]


async def test_the_place_in_the_queue_is_shown_while_waiting(service: FakeService, stage: Stage) -> None:
    served = asyncio.Event()
    service.answer = [Queue(3, 4.2), Until(served), "Hi"]
    await stage.robin.say("!joke")
    await stage.robin.wait_for(lambda m: m["content"] == "⏳ In the queue: place 3, about 5 seconds.")
    served.set()
    await stage.robin.wait_for(lambda m: m["content"] == "Hi" and done(m))


async def test_how_far_the_model_is_loaded_is_shown_while_waiting(service: FakeService, stage: Stage) -> None:
    more, loaded, served = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loading = [Loading("gpt2-xl", 0), Until(more), Loading("gpt2-xl", 43), Until(loaded)]
    service.answer = [*loading, Queue(1, 2.0), Until(served), "Hi"]
    await stage.robin.say("!joke")
    first = await stage.robin.wait_for(lambda m: m["content"] == "⏳ Loading gpt2-xl … 0 %")
    more.set()
    await stage.robin.wait_for(lambda m: m["content"] == "⏳ Loading gpt2-xl … 43 %" and m["id"] == first["id"])
    loaded.set()
    await stage.robin.wait_for(lambda m: m["content"].startswith("⏳ In the queue: place 1"))
    served.set()
    await stage.robin.wait_for(lambda m: m["content"] == "Hi" and done(m))


async def test_a_model_that_fails_to_load_meanwhile_says_why_and_what_to_do(service: FakeService, stage: Stage) -> None:
    why = "The model 'gpt2-xl' could not be loaded: model.safetensors is cut short."
    service.answer = [Loading("gpt2-xl", 43), Fail(why, "model_failed")]
    await stage.robin.say("!joke")
    ended = await stage.robin.wait_for(lambda m: done(m) and "could not be loaded" in m["content"])
    assert ended["content"] == f"{why} `/models` shows the others."


async def test_the_time_a_model_takes_to_load_is_not_the_answers(service: FakeService, tmp_path: Path) -> None:
    limit_s = 3.0
    async with on_stage(service.socket_path, tmp_path, answer_timeout_s=limit_s) as stage:
        steps = [asyncio.Event() for _ in range(2)]
        service.answer = [item for n, step in enumerate(steps) for item in (Loading("gpt2-xl", n), Until(step))] + [
            "Hi"
        ]
        started = asyncio.get_running_loop().time()
        await stage.robin.say("!joke")
        for number, step in enumerate(steps):
            await stage.robin.wait_for(lambda m, n=number: m["content"] == f"⏳ Loading gpt2-xl … {n} %")  # type: ignore[misc]
            await asyncio.sleep(0.6 * limit_s)  # the time is what is tested
            step.set()
        await stage.robin.wait_for(lambda m: m["content"] == "Hi" and done(m))
        assert asyncio.get_running_loop().time() - started > limit_s


async def test_stop_ends_the_answer_keeps_the_text_and_frees_the_model(service: FakeService, stage: Stage) -> None:
    service.answer = ["So far", Until(asyncio.Event())]
    await stage.robin.say("!joke")
    answer = await stage.robin.wait_for(growing)
    await stage.robin.click(answer, "Stop")
    stopped = await stage.robin.wait_for(done)
    assert stopped["content"] == "So far\n\n*Stopped.*"
    await service.until_left()


async def test_only_the_asker_and_moderators_can_stop(service: FakeService, stage: Stage) -> None:
    service.answer = ["So far", Until(asyncio.Event())]
    await stage.morgan.say("!joke")
    answer = await stage.robin.wait_for(growing)
    await stage.robin.click(answer, "Stop")
    refusal = await stage.robin.wait_for(lambda m: "can stop this answer" in m["content"])
    assert refusal["flags"] & 64  # for robin alone
    assert service.cancelled == 0
    await stage.robin.say("!joke")
    other = await stage.morgan.wait_for(lambda m: growing(m) and m["id"] != answer["id"])
    await stage.morgan.click(other, "Stop")
    await stage.robin.wait_for(lambda m: m["id"] == other["id"] and done(m))


async def test_deleting_the_question_ends_the_answer(service: FakeService, stage: Stage) -> None:
    service.answer = ["So far", Until(asyncio.Event())]
    asked = await stage.robin.say("!joke")
    await stage.robin.wait_for(growing)
    await stage.robin.delete(asked)
    await service.until_left()
    await stage.robin.wait_for(lambda m: done(m) and "Stopped" in m["content"])


async def test_deleting_the_answer_cancels_it_and_nothing_comes_back(service: FakeService, stage: Stage) -> None:
    service.answer = ["So far", Until(asyncio.Event())]
    await stage.robin.say("!joke")
    answer = await stage.robin.wait_for(growing)
    await stage.morgan.delete(answer["id"])
    await service.until_left()
    service.answer = ["Next"]
    await stage.robin.say("!joke")
    await stage.robin.wait_for(lambda m: m["content"] == "Next" and done(m))
    assert not [m for m in stage.robin.seen.values() if "Stopped" in m["content"]]


async def test_a_service_that_dies_mid_answer_keeps_the_text_and_says_so(service: FakeService, stage: Stage) -> None:
    service.answer = ["Half a joke", Die()]
    await stage.robin.say("!joke")
    ended = await stage.robin.wait_for(done)
    assert ended["content"].startswith("Half a joke\n\n")
    assert "Try again in a minute." in ended["content"]


async def test_a_service_that_is_away_is_a_sentence(service: FakeService, stage: Stage) -> None:
    await service.stop()
    await stage.robin.say("!joke")
    ended = await stage.robin.wait_for(done)
    assert ended["content"] == "The model is offline right now. Try again in a minute."


async def test_a_full_queue_and_a_prompt_too_long_are_sentences(service: FakeService, stage: Stage) -> None:
    service.refuse("/v1/completions", 429, "full", "queue_full", retry_after_s=3)
    await stage.robin.say("!joke")
    await stage.robin.wait_for(lambda m: done(m) and "Try again in 3 seconds." in m["content"])
    sentence = "This model's context is 256 tokens, but the prompt has 300. Shorten the prompt or lower max_tokens."
    service.refuse("/v1/completions", 400, sentence, "context_length_exceeded")
    await stage.robin.say("!complete " + "word " * 300)
    await stage.robin.wait_for(lambda m: done(m) and "has 300. Shorten the prompt or lower tokens." in m["content"])


async def test_an_answer_over_its_time_keeps_what_came(service: FakeService, tmp_path: Path) -> None:
    service.answer = ["Slow", Until(asyncio.Event())]
    async with on_stage(service.socket_path, tmp_path, answer_timeout_s=0.5) as stage:
        await stage.robin.say("!joke")
        ended = await stage.robin.wait_for(done)
    assert ended["content"].startswith("Slow\n\nThe model took longer than 0.5 seconds")
    await service.until_left()


async def test_a_model_with_nothing_to_say_gets_a_sentence(service: FakeService, stage: Stage) -> None:
    service.answer = ["  \n"]
    await stage.robin.say("!joke")
    await stage.robin.wait_for(lambda m: done(m) and "nothing to say" in m["content"])


async def test_a_long_text_goes_on_in_further_messages(service: FakeService, stage: Stage) -> None:
    words = [f"word{n}" for n in range(900)]
    rest = asyncio.Event()
    service.answer = [" ".join(words[:600]), Until(rest), " " + " ".join(words[600:])]
    await stage.robin.say("!joke")
    await stage.robin.wait_for(lambda m: growing(m) and m["content"].endswith("word599 ▌"))
    rest.set()
    await stage.robin.wait_for(lambda m: done(m) and m["content"].endswith("word899"))
    answers = [m for m in stage.robin.seen.values() if m["author"].get("bot")]
    answers.sort(key=lambda m: int(m["id"]))
    assert len(answers) > 2
    assert all(len(m["content"]) <= 2000 and not m["components"] for m in answers)
    assert " ".join(m["content"] for m in answers).split() == words


async def test_what_the_model_says_cannot_ping_or_link(service: FakeService, stage: Stage) -> None:
    service.answer = ["@everyone <@1> see https://evil.example"]
    await stage.robin.say("!joke")
    answer = await stage.robin.wait_for(lambda m: done(m))
    assert "@everyone" not in answer["content"]
    assert "evil" not in answer["content"]
    assert not answer["mention_everyone"]
    assert answer["mentions"] == []


async def test_a_slash_command_grows_the_same_way(service: FakeService, stage: Stage) -> None:
    rest = asyncio.Event()
    service.answer = ["Why", Until(rest), " not?"]
    await stage.robin.command("joke", topic="about cats")
    await stage.robin.wait_for(lambda m: m["content"] == "Why ▌")
    rest.set()
    await stage.robin.wait_for(lambda m: m["content"] == "Why not?" and done(m))
    assert service.bodies("/v1/completions")[-1]["prompt"] == "JOKE about cats:"


async def test_a_restart_ends_growing_answers_with_a_word(service: FakeService, stage: Stage) -> None:
    service.answer = ["So far", Until(asyncio.Event())]
    await stage.robin.say("!joke")
    await stage.robin.wait_for(growing)
    await stage.bot.close()
    ended = await stage.robin.wait_for(done)
    assert ended["content"].startswith("So far\n\n*Cut short: I am being restarted.")


async def test_a_button_from_before_a_restart_answers_too(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        await stage.morgan.say("!jokes")
        offer = await stage.morgan.wait_for(lambda m: m["components"])
        await stage.bot.close()
        async with on_stage(service.socket_path, tmp_path / "again", playground=stage.playground):
            await stage.morgan.click(offer, "Import starter pack")
            await stage.morgan.wait_for(lambda m: "before my last restart" in m["content"])


async def test_a_discord_that_slows_the_bot_down_still_gets_the_whole_text(service: FakeService, stage: Stage) -> None:
    rest = asyncio.Event()
    service.answer = ["Why", Until(rest), " not?"]
    await stage.robin.say("!joke")
    await stage.robin.wait_for(growing)
    stage.playground.limit_next(1, retry_after_s=0.05)
    rest.set()
    await stage.robin.wait_for(lambda m: m["content"] == "Why not?" and done(m))


async def test_ten_people_at_once_all_get_their_answer(service: FakeService, stage: Stage) -> None:
    async with asyncio.TaskGroup() as people:
        for _ in range(5):
            people.create_task(stage.robin.say("!joke"))
            people.create_task(stage.morgan.command("joke"))

    def ended() -> list[Json]:
        return [m for m in stage.robin.seen.values() if done(m) and m["content"] == "Why not?"]

    await stage.robin.wait_for(lambda _: len(ended()) == 10)
