"""`finetune history`, `promote`, `rollback`, `pause` and `resume`, on both surfaces; the service plays its part."""

import asyncio

from tests.bot.test_commands import ask, words
from tests.bot.test_training_card import trained
from tests.support.fake_service import FakeService, Until
from tests.support.stage import Stage

BASE = "jokes-mini"


async def test_history_says_when_who_jokes_losses_state_and_which_is_live(service: FakeService, stage: Stage) -> None:
    assert "No training has run here yet" in words(await ask(stage.morgan, "!finetune history"))
    _, model = await trained(service, stage)
    await trained(service, stage, passed=False)
    await ask(stage.morgan, "!finetune start")
    title, running, second, first = words(await ask(stage.morgan, "!finetune history")).split("\n")
    assert title == f"🎓 **Trainings here** · jokes are told by `{model}`"
    started = (await stage.store.jobs.history(stage.guild_id))[-1].started_at
    who = f"<t:{int(started.timestamp())}:d> · <@{stage.morgan.id}>"
    assert first == f"**#1** {who} · 180 jokes · loss 3.500 → 3.150 · ✅ better · 🎤 **live**"
    assert second.startswith("**#2** <t:")
    assert second.endswith("loss 3.500 → 3.150 · ⚖️ not better")
    assert running.startswith("**#3** ")
    assert running.endswith("· running")
    await stage.morgan.command("finetune history", page=7)
    await stage.morgan.wait_for(lambda m: "There is 1 page of trainings" in m["content"] and m["flags"] & 64)


async def test_history_tells_of_failures_and_turns_its_pages(service: FakeService, stage: Stage) -> None:
    for number in range(12):
        await stage.store.jobs.record(stage.guild_id, f"ftjob-{number}", 1, None, None)
        await stage.store.jobs.finish(f"ftjob-{number}", "cancelled" if number else "failed", None)
    first = words(await ask(stage.morgan, "!finetune history"))
    assert "**#12**" in first
    assert "**#2**" not in first
    assert "Page 1 of 2: `/finetune history 2`" in first
    second = words(await ask(stage.morgan, "!finetune history 2"))
    assert "**#2** " in second
    assert second.split("\n")[2].endswith("❌ failed")


async def test_rollback_goes_one_step_back_each_time_at_once(service: FakeService, stage: Stage) -> None:
    assert f"no earlier model to go back to: `{BASE}`" in words(await ask(stage.morgan, "!finetune rollback"))
    _, first = await trained(service, stage)
    _, second = await trained(service, stage)
    for left, now in ((second, first), (first, BASE)):
        shown = words(await ask(stage.morgan, "!finetune rollback"))
        assert f"`{now}` tells this server's jokes again, instead of `{left}`" in shown
        await ask(stage.robin, "!joke")
        assert service.bodies("/v1/completions")[-1]["model"] == now
    assert "no earlier model" in words(await ask(stage.morgan, "!finetune rollback"))
    assert words(await ask(stage.morgan, "!finetune history")).count("undone") == 2


async def test_a_joke_that_is_being_told_ends_as_it_began_and_the_next_is_the_old_models(
    service: FakeService, stage: Stage
) -> None:
    _, model = await trained(service, stage)
    go_on = asyncio.Event()
    service.answers = {model: ["The new model", Until(go_on), " goes on."], BASE: ["The old model."]}
    await stage.robin.say("!joke")
    await stage.robin.wait_for(lambda m: m["content"].startswith("The new model"))
    rolled_back = words(await ask(stage.morgan, "!finetune rollback"))
    assert f"`{BASE}` tells this server's jokes again" in rolled_back
    assert words(await ask(stage.morgan, "!joke")) == "The old model."
    go_on.set()
    await stage.robin.wait_for(lambda m: m["content"] == "The new model goes on." and m["components"])
    assert service.cancelled == 0


async def test_rollback_works_while_the_service_is_away(service: FakeService, stage: Stage) -> None:
    _, model = await trained(service, stage)
    await service.stop()
    assert f"`{BASE}` tells this server's jokes again" in words(await ask(stage.morgan, "!finetune rollback"))
    assert await stage.store.joke_models.live(stage.guild_id) != model


async def test_rollback_passes_over_a_model_that_is_gone_and_says_so(service: FakeService, stage: Stage) -> None:
    _, first = await trained(service, stage)
    _, second = await trained(service, stage)
    service.models = [card for card in service.models if card["id"] != first]
    shown = words(await ask(stage.morgan, "!finetune rollback"))
    assert f"`{BASE}` tells this server's jokes again, instead of `{second}`" in shown
    assert f"`{first}` is gone from the service, so I passed over it." in shown


async def test_promote_takes_a_number_an_id_or_a_model_and_explains_what_it_cannot(
    service: FakeService, stage: Stage
) -> None:
    assert "No training has run here yet" in words(await ask(stage.morgan, "!finetune promote 1"))
    _, first = await trained(service, stage)
    _, second = await trained(service, stage)
    for named, model in (("#1", first), (second, second), ("ftjob-1", first), ("2", second)):
        assert f"✅ `{model}` tells" in words(await ask(stage.morgan, f"!finetune promote {named}"))
    for named, sentence in (
        ("2", "tells this server's jokes already"),
        ("9", "There is no training `9` here. `/finetune history` lists them: #1 to #2."),
        ("ftjob", "could be 2 trainings. Give the number"),
        ("ftjib-1", "Did you mean `ftjob-1`?"),
    ):
        assert sentence in words(await ask(stage.morgan, f"!finetune promote {named}")), named
    assert "I need the job too" in words(await ask(stage.morgan, "!finetune promote"))
    await ask(stage.morgan, "!finetune start")
    assert "#3 has not ended yet" in words(await ask(stage.morgan, "!finetune promote 3"))
    service.jobs["ftjob-3"].update(status="failed", error={"message": "The disk is full."})
    await stage.morgan.wait_for(lambda m: "The disk is full." in m["content"])
    assert "#3 made no model: ❌ failed." in words(await ask(stage.morgan, "!finetune promote 3"))


async def test_promote_offers_the_models_that_are_not_in_use(service: FakeService, stage: Stage) -> None:
    await trained(service, stage)
    await trained(service, stage, passed=False)
    offered = await stage.morgan.autocomplete("finetune promote", "job", job="")
    assert [choice["value"] for choice in offered] == ["2"]
    assert offered[0]["name"].startswith("#2 · ")
    assert "not better · loss 3.500 → 3.150 · ftjob-2" in offered[0]["name"]
    assert await stage.morgan.autocomplete("finetune promote", "job", job="zebra") == []
    await stage.morgan.command("finetune promote", job="2")
    await stage.morgan.wait_for(lambda m: "It did not pass the gate" in m["content"])


async def test_judging_is_for_moderators(service: FakeService, stage: Stage) -> None:
    _, model = await trained(service, stage)
    for text in ("history", "promote 1", "rollback", "pause", "resume"):
        assert "Only moderators" in words(await ask(stage.robin, f"!finetune {text}")), text
    assert await stage.robin.autocomplete("finetune promote", "job", job="") == []
    assert await stage.store.joke_models.live(stage.guild_id) == model


async def test_a_training_rests_and_goes_on(service: FakeService, stage: Stage) -> None:
    assert "No training is running here" in words(await ask(stage.morgan, "!finetune pause"))
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    assert "The training rests" in words(await ask(stage.morgan, "!finetune pause"))
    await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and "Paused." in m["content"])
    assert "goes on" in words(await ask(stage.morgan, "!finetune resume"))
    await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and "Waiting for its turn" in m["content"])
