"""What each command says, on real discord.py against the playground, typed and as slash commands."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_service import FakeService, card
from tests.support.people import Person, is_growing
from tests.support.stage import Stage, on_stage

Json = dict[str, Any]


async def ask(person: Person, text: str, *, timeout_s: float = 20.0, **rest: Any) -> Json:
    """Say something and wait for the bot's reply to it."""
    asked = await person.say(text, **rest)

    def replied(message: Json) -> bool:
        reference = message.get("message_reference") or {}
        return reference.get("message_id") == asked and not is_growing(message)

    return await person.wait_for(replied, timeout_s)


def words(message: Json) -> str:
    """All that a message says, embeds included."""
    parts = [message["content"]]
    for embed in message["embeds"]:
        fields = [text for field in embed.get("fields", []) for text in (field["name"], field["value"])]
        footer = (embed.get("footer") or {}).get("text", "")
        parts += [embed.get("title") or "", embed.get("description") or "", *fields, footer]
    return "\n".join(parts)


async def test_joke_about_something_reaches_the_model_as_its_training_format(
    service: FakeService, stage: Stage
) -> None:
    await ask(stage.robin, "!joke")
    await ask(stage.robin, "!joke about black cats?")
    bodies = service.bodies("/v1/completions")
    assert [body["prompt"] for body in bodies] == ["JOKE:", "JOKE about black cats:"]
    assert {body["max_tokens"] for body in bodies} == {96}
    assert {body["user"] for body in bodies} == {f"{stage.guild_id}:{stage.robin.id}"}
    assert "most is 100" in words(await ask(stage.robin, "!joke about " + "x" * 101))


async def test_complete_shows_the_prompt_in_bold_before_what_was_added(service: FakeService, stage: Stage) -> None:
    service.answer = [" there was", " a bot."]
    answer = await ask(stage.robin, "!complete Once upon a *time*")
    assert answer["content"] == r"**Once upon a \*time\*** there was a bot."
    [body] = service.bodies("/v1/completions")
    assert (body["prompt"], body["max_tokens"]) == ("Once upon a *time*", 100)
    assert body["user"] == f"{stage.guild_id}:{stage.robin.id}", "servers share the model first, then their people"


async def test_complete_takes_a_number_of_tokens_on_both_surfaces(service: FakeService, stage: Stage) -> None:
    await ask(stage.robin, "!complete --tokens 200 Once")
    await stage.robin.command("complete", text="Once --tokens 3", tokens=250)
    await stage.robin.wait_for(lambda m: m["content"].startswith("**Once --tokens 3**"))
    bodies = service.bodies("/v1/completions")
    assert [(body["prompt"], body["max_tokens"]) for body in bodies] == [("Once", 200), ("Once --tokens 3", 250)]
    assert "between 1 and 500 tokens; you asked for 501" in words(await ask(stage.robin, "!complete --tokens 501 x"))
    assert "I need a number" in words(await ask(stage.robin, "!complete --tokens many x"))
    assert "I need the beginning" in words(await ask(stage.robin, "!complete --tokens 5"))


async def test_sentiment_shows_label_and_probabilities(service: FakeService, stage: Stage) -> None:
    answer = await ask(stage.robin, "!sentiment I love this")
    assert answer["content"] == "😊 **positive** · 90% sure"
    assert "negative  ░░░░░░░░░░░░   3%" in words(answer)
    assert service.bodies("/v1/classify") == [{"model": "sentiment-mini", "input": "I love this"}]


async def test_sentiment_reads_the_message_replied_to(service: FakeService, stage: Stage) -> None:
    theirs = await stage.morgan.say("what a lovely day")
    await ask(stage.robin, "!sentiment", reply_to=theirs)
    assert service.bodies("/v1/classify")[0]["input"] == "what a lovely day"
    assert "You can also reply" in words(await ask(stage.robin, "!sentiment"))


async def test_sentiment_as_a_slash_command(stage: Stage) -> None:
    await stage.robin.command("sentiment", text="I love this")
    await stage.robin.wait_for(lambda m: m["content"] == "😊 **positive** · 90% sure")


async def test_a_mistyped_command_is_answered_with_the_nearest_one(stage: Stage) -> None:
    assert "Did you mean `!joke`?" in words(await ask(stage.robin, "!jokee"))
    assert "Did you mean" not in words(await ask(stage.robin, "!weather"))
    await stage.robin.say("!!! wow")
    await stage.robin.say("!?")
    last = await ask(stage.robin, "!ping")
    replies = [m for m in stage.robin.seen.values() if m["author"].get("bot") and int(m["id"]) < int(last["id"])]
    assert len(replies) == 2  # the two mistyped commands, nothing for the exclamations


async def test_a_missing_argument_shows_how_to_use_the_command(stage: Stage) -> None:
    assert words(await ask(stage.robin, "!complete")) == (
        "I need the text too. Use it like this: `!complete [--tokens 200] <text>`"
    )
    mention = f"<@{stage.playground.application_id}>"
    assert "`@Punchline complete [--tokens" in words(await ask(stage.robin, f"{mention} complete"))


async def test_a_mention_alone_is_a_call_for_help(stage: Stage) -> None:
    assert "What I can do" in words(await ask(stage.robin, f"<@{stage.playground.application_id}>"))


async def test_help_has_every_command_and_explains_one(stage: Stage) -> None:
    shown = words(await ask(stage.robin, "!help"))
    for command in stage.bot.commands:
        assert f"`!{command.name}" in shown, command.name
    assert "Once upon a time" in words(await ask(stage.robin, "!help complete"))
    assert "finetune start" in words(await ask(stage.robin, "!help finetune"))
    assert "Did you mean `jokes search`?" in words(await ask(stage.robin, "!help jokes serch"))
    await stage.robin.command("help", command="joke")
    await stage.robin.wait_for(lambda m: any("/joke" in (e.get("title") or "") for e in m["embeds"]))


async def test_about_and_ping_tell_how_the_service_is(service: FakeService, stage: Stage) -> None:
    assert "jokes-mini" in words(await ask(stage.robin, "!about"))
    assert "models: ready (" in words(await ask(stage.robin, "!ping"))
    service.ready = False
    service.models = [card("jokes-mini"), card("gpt2", state="loading"), card("gpt2-xl", state="failed")]
    assert "models: 1 loading, 1 failed; `/models` says more (" in words(await ask(stage.robin, "!ping"))
    assert "1 loading, 1 failed" in words(await ask(stage.robin, "!about"))
    await service.stop()
    assert "not ready" in words(await ask(stage.robin, "!about"))
    assert "not ready" in words(await ask(stage.robin, "!ping"))


async def test_service_down_is_a_sentence_for_every_command_that_needs_it(service: FakeService, stage: Stage) -> None:
    await service.stop()
    for text in ("!joke", "!complete x", "!sentiment x", "!models"):
        assert "offline right now" in words(await ask(stage.robin, text)), text


async def test_a_bug_is_a_sentence_with_a_reference_and_one_log_entry(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(stage.client, "classify", broken)
    with caplog.at_level(logging.ERROR):
        shown = words(await ask(stage.robin, "!sentiment x"))
    reference = shown.split("`")[1]
    assert shown.startswith("Something broke on my side.")
    assert sum(reference in record.getMessage() for record in caplog.records) == 1


async def test_bots_and_webhooks_are_ignored(stage: Stage) -> None:
    channel = stage.bot.get_channel(int(stage.playground.session.channel_id))
    assert channel is not None
    own = await channel.send("!ping")  # type: ignore[union-attr]
    answer = await ask(stage.robin, "!ping")
    between = [i for i in stage.robin.seen if own.id < int(i) < int(answer["id"])]
    assert [stage.robin.seen[i]["author"].get("bot", False) for i in between] == [False]


async def test_commands_work_in_private_messages_and_server_ones_say_why_not(
    service: FakeService, stage: Stage
) -> None:
    stage.robin.channel_id = await stage.robin.open_direct(str(stage.playground.application_id))
    assert (await ask(stage.robin, "!joke"))["content"] == "Why not?"
    for text in ("!jokes", "!addjoke x y z", "!finetune start", "!model set jokes-mini"):
        assert "only in a server" in words(await ask(stage.robin, text)), text


async def test_another_prefix_can_be_set(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path, prefix="pl ") as stage:
        assert (await ask(stage.robin, "pl joke"))["content"] == "Why not?"
        assert "`pl joke" in words(await ask(stage.robin, "pl help"))
