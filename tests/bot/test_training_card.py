"""The card at the end of a fine-tune, its buttons, and what they change; the service plays its part."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bot.cogs.training import TrainingCog
from bot.playground import Playground
from bot.playground.permissions import ATTACH_FILES, EMBED_LINKS
from bot.playground.world import Overwrite
from bot.ui.training_card import table
from tests.bot.test_commands import ask, words
from tests.support.fake_service import FakeService
from tests.support.stage import Stage, on_stage
from tests.support.tuned import end_job, evaluation

Json = dict[str, Any]


async def trained(service: FakeService, stage: Stage, *, passed: bool = True) -> tuple[Json, str]:
    """Start a training and let it end; returns its card and its model."""
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    model = end_job(service, f"ftjob-{len(service.jobs)}", passed=passed)
    return await card_of(stage, message), model


async def card_of(stage: Stage, message: Json) -> Json:
    """Wait until a message has become a card."""
    card = await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and m["components"])
    await stage.robin.wait_for(lambda m: m["id"] == message["id"] and m["components"])
    return card


def labels(message: Json) -> list[str]:
    return [button["label"] for row in message["components"] for button in row["components"]]


async def read(stage: Stage, message: Json, text: str) -> Json:
    """Wait until a message reads so."""
    return await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and text in m["content"])


async def told(stage: Stage, text: str) -> str:
    """Wait for a sentence that only the moderator sees."""
    return words(await stage.morgan.wait_for(lambda m: text in m["content"] and m["flags"] & 64))


@asynccontextmanager
async def manual(service: FakeService, home: Path) -> AsyncIterator[Stage]:
    async with on_stage(service.socket_path, home, auto_promote=False) as stage:
        yield stage


async def test_one_message_becomes_the_card_with_table_samples_curves_and_buttons(
    service: FakeService, stage: Stage
) -> None:
    card, model = await trained(service, stage)
    assert "The new model is better, and tells this server's jokes from now on" in card["content"]
    assert labels(card) == ["Undo", "Train longer"]
    [shown] = card["embeds"]
    assert shown["description"] == table({"punchline": {"evaluation": evaluation()}})
    before, after = shown["fields"]
    assert before["inline"]
    assert after["inline"]
    assert before["value"].startswith("**1** Why did the the the dog\n**2** A man")
    for field in (before, after):
        assert [line.split()[0] for line in field["value"].split("\n")] == [f"**{i}**" for i in range(1, 9)]
    assert shown["footer"]["text"].startswith("Asked “JOKE:” with the same seeds.")
    assert "\n**6** *(nothing)*\n" in before["value"]
    assert "**4** What do you call a fish without eyes? A fsh." in after["value"]
    [file] = card["attachments"]
    assert file["description"].startswith("Loss curves over 200 steps")
    assert "at step 120" in file["description"]
    assert await stage.store.joke_models.live(stage.guild_id) == model
    mine = [
        m for m in await stage.morgan.messages() if m["author"].get("bot") and "Training this server" in m["content"]
    ]
    assert len(mine) == 1


async def test_undo_goes_back_at_once_and_the_card_says_so(service: FakeService, stage: Stage) -> None:
    card, model = await trained(service, stage)
    await stage.morgan.click(card, "Undo")
    undone = await read(stage, card, "👉 ↩️ `jokes-mini` tells this server's jokes again")
    assert f"<@{stage.morgan.id}>" in undone["content"]
    assert labels(undone) == ["Promote", "Train longer"]
    assert undone["embeds"]
    assert undone["attachments"]
    await ask(stage.robin, "!joke")
    assert service.bodies("/v1/completions")[-1]["model"] == "jokes-mini"
    await stage.morgan.click(undone, "Promote")
    again = await read(stage, card, f"👉 ✅ `{model}` tells this server's jokes")
    assert again["content"].count("👉") == 1
    assert labels(again) == ["Undo", "Train longer"]


async def test_without_auto_promotion_a_moderator_promotes(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        assert labels(card) == ["Promote", "Keep old", "Train longer"]
        assert await stage.store.joke_models.live(stage.guild_id) is None
        await stage.morgan.click(card, "Promote")
        assert labels(await read(stage, card, f"`{model}` tells")) == ["Undo", "Train longer"]
        await ask(stage.robin, "!joke")
        assert service.bodies("/v1/completions")[-1]["model"] == model


async def test_what_did_not_pass_says_why_and_is_promoted_only_anyway(service: FakeService, stage: Stage) -> None:
    card, model = await trained(service, stage, passed=False)
    assert "The loss on the held-out jokes rose." in card["content"]
    assert labels(card) == ["Promote anyway", "Keep old", "Train longer"]
    await stage.morgan.click(card, "Promote anyway")
    await read(stage, card, "It did not pass the gate")
    assert await stage.store.joke_models.live(stage.guild_id) == model


async def test_keep_old_leaves_one_way_back(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        await stage.morgan.click(card, "Keep old")
        kept = await read(stage, card, "👉 ✋ `jokes-mini` goes on telling jokes")
        assert labels(kept) == ["Promote", "Train longer"]
        assert "old one kept" in words(await ask(stage.morgan, "!finetune history"))
        assert "instead of `jokes-mini`" in words(await ask(stage.morgan, "!finetune promote 1"))
        assert await stage.store.joke_models.live(stage.guild_id) == model


async def refused(stage: Stage, card: Json, label: str, count: int) -> None:
    """Let the member press a button, and wait until they have been refused so many times."""
    await stage.robin.wait_for(lambda m: m["id"] == card["id"] and label in labels(m))
    await stage.robin.click(card, label)
    await stage.robin.wait_for(
        lambda _: sum("Only moderators" in each["content"] for each in stage.robin.seen.values()) == count
    )


async def test_only_moderators_can_press_each_button(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        for count, label in enumerate(("Promote", "Keep old", "Train longer"), start=1):
            await refused(stage, card, label, count)
        assert await stage.store.joke_models.live(stage.guild_id) is None
        await stage.morgan.click(card, "Promote")
        await read(stage, card, "tells this server's jokes from now on")
        await refused(stage, card, "Undo", 4)
        assert await stage.store.joke_models.live(stage.guild_id) == model
        assert len(service.jobs) == 1
        [job] = await stage.store.jobs.history(stage.guild_id)
        assert (job.decision, job.decided_by) == ("promoted", int(stage.morgan.id))


async def press_together(stage: Stage, card: Json, *pressed: str) -> None:
    """Press buttons before the first press has been answered, as two people do."""
    cog = stage.bot.get_cog("Training")
    assert isinstance(cog, TrainingCog)
    async with cog.deciding:
        for label in pressed:
            await stage.morgan.click(card, label)


async def test_pressing_twice_is_a_sentence(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        await press_together(stage, card, "Keep old", "Keep old", "Promote", "Promote", "Keep old")
        await told(stage, "That was decided already: `jokes-mini` stays.")
        await told(stage, f"`{model}` tells this server's jokes already.")
        await told(stage, "tells this server's jokes already. Undo goes back.")
        shown = await read(stage, card, "tells this server's jokes from now on")
        await press_together(stage, shown, "Undo", "Undo")
        await told(stage, "There is nothing to undo: `jokes-mini`")
        assert await stage.store.joke_models.past(stage.guild_id) == []


async def test_pressing_late_is_a_sentence(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        await ask(stage.morgan, "!finetune promote 1")
        await stage.morgan.click(card, "Promote")
        await told(stage, f"`{model}` tells this server's jokes already.")
        service.models.append({**service.models[0], "id": "other"})
        await ask(stage.morgan, "!model set other")
        await stage.morgan.click(card, "Promote")
        await told(stage, "compared with `jokes-mini`, but `other` tells this server's jokes by now")
        assert await stage.store.joke_models.live(stage.guild_id) == "other"


async def test_undo_after_another_model_was_chosen_changes_nothing(service: FakeService, stage: Stage) -> None:
    card, _ = await trained(service, stage)
    await ask(stage.morgan, "!model set jokes-mini")
    await stage.morgan.click(card, "Undo")
    await told(stage, "There is nothing to undo: `jokes-mini` tells this server's jokes now.")


async def test_a_model_that_is_gone_cannot_be_promoted(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        del service.models[-1]
        await stage.morgan.click(card, "Promote")
        await told(stage, f"`{model}` is no longer there.")
        await service.stop()
        await stage.morgan.click(card, "Promote")
        await told(stage, "offline right now")
        assert await stage.store.joke_models.live(stage.guild_id) is None


async def test_the_buttons_outlive_a_restart_of_the_bot(service: FakeService, tmp_path: Path) -> None:
    async with manual(service, tmp_path) as stage:
        card, model = await trained(service, stage)
        await stage.bot.close()
        await stage.store.close()
        async with on_stage(service.socket_path, tmp_path, playground=stage.playground) as again:
            again.morgan.seen[card["id"]] = card
            await again.morgan.click(card, "Promote")
            await again.morgan.wait_for(lambda m: m["id"] == card["id"] and f"`{model}` tells" in m["content"])
            assert await again.store.joke_models.live(again.guild_id) == model


async def test_train_longer_starts_again_from_what_is_live_for_twice_as_long(
    service: FakeService, stage: Stage
) -> None:
    card, model = await trained(service, stage)
    await stage.morgan.click(card, "Train longer")
    shown = await read(stage, card, "👉 🔁 Training again, 24 times over the jokes instead of 12")
    assert labels(shown) == ["Undo"]
    body = service.bodies("/v1/fine_tuning/jobs")[-1]
    assert body["model"] == model
    assert body["method"]["supervised"]["hyperparameters"] == {"n_epochs": 24}
    await stage.morgan.wait_for(lambda m: "ftjob-2" in m["content"] and "Training this server's jokes" in m["content"])


async def test_train_longer_twice_trains_once(service: FakeService, stage: Stage) -> None:
    card, _ = await trained(service, stage)
    await press_together(stage, card, "Train longer", "Train longer")
    await told(stage, "A training is already running here.")
    assert len(service.jobs) == 2
    service.jobs["ftjob-2"].update(status="failed", error={"message": "The disk is full."})
    await stage.morgan.wait_for(lambda m: "The disk is full." in m["content"])
    service.jobs["ftjob-1"]["hyperparameters"]["n_epochs"] = 100
    await press_together(stage, card, "Undo")
    undone = await read(stage, card, "again, instead of")
    await stage.morgan.click(undone, "Train longer")
    await told(stage, "It went over the jokes 100 times already, and more is not possible.")
    del service.jobs["ftjob-1"]
    await stage.morgan.click(undone, "Train longer")
    await told(stage, "The service has forgotten this training.")


async def test_a_model_chosen_meanwhile_is_not_pushed_aside(service: FakeService, stage: Stage) -> None:
    service.models.append({**service.models[0], "id": "other"})
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    await ask(stage.morgan, "!model set other")
    end_job(service, "ftjob-1")
    card = await card_of(stage, message)
    assert "compared with `jokes-mini`, but `other` tells the jokes here" in card["content"]
    assert labels(card) == ["Promote", "Keep old", "Train longer"]
    assert await stage.store.joke_models.live(stage.guild_id) == "other"


async def test_a_service_that_measures_less_still_makes_a_card(service: FakeService, stage: Stage) -> None:
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    end_job(service, "ftjob-1")
    del service.events["ftjob-1"], service.jobs["ftjob-1"]["punchline"]["evaluation"]
    card = await card_of(stage, message)
    assert card["attachments"] == []
    [shown] = card["embeds"]
    assert "Held-out loss          3.500   3.150 ✓" in shown["description"]
    assert "fields" not in shown or shown["fields"] == []


async def test_where_embeds_and_files_are_not_allowed_the_card_is_in_words(
    service: FakeService, tmp_path: Path
) -> None:
    async with Playground(port=0) as playground:
        world = playground._world
        channel = world.guild.channels[int(playground.session.channel_id)]
        channel.overwrites.append(Overwrite(world.bot.id, 1, deny=EMBED_LINKS | ATTACH_FILES))
        async with on_stage(service.socket_path, tmp_path, playground=playground) as stage:
            card, _ = await trained(service, stage)
    assert "Held-out loss          3.500   3.150 ✓" in card["content"]
    assert "Loss curves over 200 steps" in card["content"]
    assert (card["embeds"], card["attachments"]) == ([], [])
    assert labels(card) == ["Undo", "Train longer"]


async def test_a_long_card_keeps_what_was_decided_last(service: FakeService, stage: Stage) -> None:
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    end_job(service, "ftjob-1", passed=False)
    service.jobs["ftjob-1"]["punchline"]["gate"]["reasons"] = ["because " * 60] * 9
    card = await card_of(stage, message)
    assert 1990 < len(card["content"]) <= 2000
    await stage.morgan.click(card, "Keep old")
    shown = await read(stage, card, "👉 ✋ `jokes-mini` goes on telling jokes")
    assert len(shown["content"]) <= 2000
