"""What only the bot's owner may train: a model of the global imports, and all weights instead of an adapter.

In the playground Morgan owns the bot, and is a moderator besides.
"""

import json
from pathlib import Path
from typing import Any

from bot.cogs.model_words import owner_of
from bot.store import GLOBAL
from tests.bot.test_commands import ask, words
from tests.bot.test_training import FIGURES, changed
from tests.support.fake_service import FakeService, card
from tests.support.stage import Stage, on_stage

MINE = "Only my owner can train everybody's model"
OTHERS = "ft:jokes-mini:77:ftjob-9"
FOR_ALL = "ft:jokes-mini:global:ftjob-1"


async def collect(stage: Stage) -> None:
    """Put jokes into this server, and others into the global collection."""
    await stage.store.jokes.import_starter(stage.guild_id)
    texts = [f"A global cow number {n} walks into a bar." for n in range(80)]
    await stage.store.jokes.import_texts(GLOBAL, texts, "CC0-1.0", is_global=True)


def job(service: FakeService) -> dict[str, Any]:
    """The job that was asked for last."""
    return service.bodies("/v1/fine_tuning/jobs")[-1]


def end(service: FakeService, model: str = FOR_ALL) -> None:
    """Let the job end with a better model."""
    gate = {"passed": True, "reasons": ["It is better."]}
    service.models.append(card(model))
    service.jobs["ftjob-1"].update(status="succeeded", fine_tuned_model=model, punchline=FIGURES | {"gate": gate})


async def test_the_owner_trains_all_weights_typed_and_as_a_slash_command(service: FakeService, stage: Stage) -> None:
    await collect(stage)
    message = await ask(stage.morgan, "!finetune start full")
    assert "Training this server's jokes" in words(message)
    assert job(service)["method"] == {"type": "supervised", "supervised": {"adapter": "full"}}
    assert job(service)["suffix"] == str(stage.guild_id)
    await ask(stage.morgan, "!finetune cancel")
    await changed(stage, message, "cancelled")
    await stage.morgan.command("finetune start", on="global", adapter="full")
    await stage.morgan.wait_for(lambda m: "everybody's model on the global jokes" in m["content"])
    assert (job(service)["suffix"], job(service)["method"]["supervised"]) == ("global", {"adapter": "full"})


async def test_moderators_who_do_not_own_the_bot_may_not_and_nothing_is_uploaded(
    service: FakeService, stage: Stage
) -> None:
    await collect(stage)
    stage.bot.owner_id = 1
    for text in ("full", "global", "votes full", "full global"):
        assert MINE in words(await ask(stage.morgan, f"!finetune start {text}")), text
    await stage.morgan.command("finetune start", on="global")
    await stage.morgan.wait_for(lambda m: MINE in m["content"] and m["flags"] & 64)
    assert service.jobs == service.files == {}
    assert "Training this server's jokes" in words(await ask(stage.morgan, "!finetune start lora"))
    assert job(service)["method"]["supervised"] == {"adapter": "lora"}


async def test_a_global_model_learns_global_jokes_alone_and_starts_from_no_servers_model(
    service: FakeService, stage: Stage
) -> None:
    await collect(stage)
    await stage.store.joke_models.use(stage.guild_id, f"ft:jokes-mini:{stage.guild_id}:ftjob-0")
    await ask(stage.morgan, "!finetune start global")
    rows = [json.loads(line) for line in service.files["file-1"].splitlines()]
    assert len(rows) == 80
    assert all(" A global cow " in row["completion"] for row in rows)
    assert (job(service)["model"], job(service)["suffix"]) == ("jokes-mini", "global")


async def test_what_comes_of_it_is_everybodys_and_goes_on_from_itself(service: FakeService, stage: Stage) -> None:
    await collect(stage)
    message = await ask(stage.morgan, "!finetune start global")
    end(service)
    told = await changed(stage, message, "The new model is better")
    assert "every server can choose it with `/model set`" in told
    assert owner_of(FOR_ALL) is None
    assert owner_of(OTHERS) == "77"
    await ask(stage.morgan, "!finetune start global")
    assert job(service)["model"] == FOR_ALL


async def test_training_longer_keeps_what_was_trained_and_stays_the_owners(
    service: FakeService, tmp_path: Path
) -> None:
    async with on_stage(service.socket_path, tmp_path, auto_promote=False) as stage:
        await collect(stage)
        message = await ask(stage.morgan, "!finetune start global full")
        end(service)
        await changed(stage, message, "The new model is better")
        shown = await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and m["components"])
        stage.bot.owner_id = 1
        await stage.morgan.click(shown, "Train longer")
        await stage.morgan.wait_for(lambda m: MINE in m["content"] and m["flags"] & 64)
        assert len(service.jobs) == 1
        stage.bot.owner_id = int(stage.morgan.id)
        await stage.morgan.click(shown, "Train longer")
        await changed(stage, message, "Training again, 24 times")
        again = job(service)
        assert again["suffix"] == "global"
        assert again["method"]["supervised"] == {"adapter": "full", "hyperparameters": {"n_epochs": 24}}
        assert all("global cow" in line for line in service.files["file-2"].splitlines())


async def test_what_cannot_be_trained_on_is_a_sentence_with_what_can(service: FakeService, stage: Stage) -> None:
    told = words(await ask(stage.morgan, "!finetune start memes"))
    for word in ("`jokes`", "`/finetune start votes`", "`global`", "`full`"):
        assert word in told
    assert "There are 0 global jokes. `punchline import FILE`" in words(
        await ask(stage.morgan, "!finetune start global")
    )
    assert service.jobs == {}
