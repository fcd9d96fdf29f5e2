"""Taking one's data back: out of the collection, and out of models that learned from it; the service plays its part."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from bot.cogs.withdrawals import STARTING_S
from bot.errors import ServiceUnavailable
from bot.service_client import SNAPSHOT
from bot.store import CONSENT_VERSION
from tests.bot.test_commands import ask, words
from tests.bot.test_training_card import card_of, labels, read, trained
from tests.bot.test_votes import voted
from tests.support.fake_service import FakeService
from tests.support.stage import Stage, on_stage
from tests.support.tuned import end_job

Json = dict[str, Any]
JOKE = "Why did the lighthouse keeper quit? The job had its ups and downs, mostly in a circle."
NEWS = "Somebody took their data back"


async def learned_from_robin(service: FakeService, stage: Stage) -> tuple[Json, str]:
    """Train a model on the starter pack and a joke of Robin's, and use it; returns its card and its name."""
    joke = await stage.store.jokes.add(stage.guild_id, int(stage.robin.id), JOKE, "modal", CONSENT_VERSION)
    assert joke.joke.trainable
    return await trained(service, stage)


async def delete(stage: Stage) -> str:
    """Let Robin delete everything; returns the question that was asked first."""
    await stage.robin.say("!privacy delete")
    question = await stage.robin.wait_for(lambda m: m["components"] and "cannot be undone" in m["content"])
    await stage.robin.click(question, "Erase my jokes")
    return str(question["content"])


async def settled(stage: Stage) -> None:
    """Wait until the service holds nothing withdrawn any more, and moderators know."""
    async with asyncio.timeout(10):
        while await stage.store.lineage.unsettled():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_deleting_names_the_models_withdraws_them_at_once_and_tells_moderators(
    service: FakeService, stage: Stage
) -> None:
    card, model = await learned_from_robin(service, stage)
    assert f"training #1: `{model}`" in words(await ask(stage.robin, "!privacy"))
    assert f"training #1: `{model}`" in await delete(stage)
    done = await stage.robin.wait_for(lambda m: "I erased 1 joke" in m["content"])
    assert f"is withdrawn, and nothing it learned is kept:\n• training #1: `{model}`" in done["content"]
    await ask(stage.robin, "!joke")
    assert service.bodies("/v1/completions")[-1]["model"] == "jokes-mini"

    news = await stage.morgan.wait_for(lambda m: NEWS in m["content"])
    assert f"training #1: `{model}`" in news["content"]
    assert "`jokes-mini` tells this server's jokes now" in news["content"]
    assert stage.robin.name not in news["content"]
    assert stage.robin.id not in news["content"]

    assert "🧹 withdrawn" in words(await ask(stage.morgan, "!finetune history"))
    assert f"`{model}` is withdrawn" in words(await ask(stage.morgan, "!finetune promote 1"))
    cleared = await read(stage, card, "Training #1 is withdrawn")
    assert (cleared["components"], cleared["embeds"], cleared["attachments"]) == ([], [], [])
    await settled(stage)
    assert model not in [each["id"] for each in service.models], "the service has deleted it"


async def test_moderators_can_train_again_without_it_and_nobody_else(service: FakeService, stage: Stage) -> None:
    await learned_from_robin(service, stage)
    await delete(stage)
    news = await stage.robin.wait_for(lambda m: NEWS in m["content"])
    await stage.morgan.wait_for(lambda m: m["id"] == news["id"])
    await stage.robin.click(news, "Train again without it")
    await stage.robin.wait_for(lambda m: "Only moderators" in m["content"] and m["flags"] & 64)
    assert len(service.jobs) == 1
    await stage.morgan.click(news, "Train again without it")
    again = await read(stage, news, "Training again without it")
    assert again["components"] == []
    await stage.morgan.wait_for(lambda m: "ftjob-2" in m["content"])
    assert JOKE in service.files["file-1"]
    assert JOKE not in service.files["file-2"]
    assert service.deleted_files == ["file-1", "file-2"], "no copy of the jokes stays behind an upload"
    assert service.bodies("/v1/fine_tuning/jobs")[-1]["model"] == "jokes-mini"


async def test_the_service_is_told_of_no_person(service: FakeService, stage: Stage) -> None:
    await learned_from_robin(service, stage)
    [body] = service.bodies("/v1/fine_tuning/jobs")
    told = json.dumps(body) + service.files["file-1"]
    assert not [person.name for person in (stage.robin, stage.morgan) if person.id in told or person.name in told]


async def test_what_had_learned_from_votes_is_trained_again_on_votes(service: FakeService, stage: Stage) -> None:
    await voted(stage, 3)
    await stage.store.votes.vote(10_001, int(stage.robin.id), 1)
    started = await ask(stage.morgan, "!finetune start votes")
    end_job(service, "ftjob-1")
    await card_of(stage, started)
    await delete(stage)
    news = await stage.morgan.wait_for(lambda m: NEWS in m["content"])
    assert labels(news) == ["Train again on votes without it"]
    await stage.morgan.click(news, labels(news)[0])
    await read(stage, news, "Training again on votes without it")
    assert service.bodies("/v1/fine_tuning/jobs")[-1]["method"]["type"] == "dpo"


async def test_a_person_whose_data_is_in_no_model_changes_none(service: FakeService, stage: Stage) -> None:
    _, model = await trained(service, stage)
    await stage.store.jokes.add(stage.guild_id, int(stage.robin.id), JOKE, "modal", CONSENT_VERSION)
    assert "learned from" not in await delete(stage)
    await stage.robin.wait_for(lambda m: "I erased 1 joke and forgot you" in m["content"])
    await ask(stage.robin, "!joke")
    assert service.bodies("/v1/completions")[-1]["model"] == model


async def test_a_running_training_is_stopped_and_never_used(service: FakeService, stage: Stage) -> None:
    await stage.store.jokes.add(stage.guild_id, int(stage.robin.id), JOKE, "modal", CONSENT_VERSION)
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    assert "training #1, which was running" in await delete(stage)
    ended = await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and "took back jokes" in m["content"])
    assert "`jokes-mini` goes on telling jokes" in ended["content"]
    assert service.jobs["ftjob-1"]["status"] == "cancelled"


async def test_without_the_service_the_model_goes_at_once_and_its_files_when_the_service_is_back(
    service: FakeService, tmp_path: Path
) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        _, model = await learned_from_robin(service, stage)
        await service.stop()
        await delete(stage)
        await stage.robin.wait_for(lambda m: f"training #1: `{model}`" in m["content"] and "Done" in m["content"])
        assert await stage.store.joke_models.live(stage.guild_id) is None
        await stage.morgan.wait_for(lambda m: NEWS in m["content"])
    await service.start()
    assert model in [each["id"] for each in service.models]
    async with on_stage(service.socket_path, tmp_path) as stage:
        await settled(stage)
    assert model not in [each["id"] for each in service.models]


async def test_what_is_taken_back_while_a_training_is_being_started_is_not_trained_on(
    service: FakeService, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.store.jokes.add(stage.guild_id, int(stage.robin.id), JOKE, "modal", CONSENT_VERSION)
    await stage.store.jokes.import_starter(stage.guild_id)
    upload = stage.client.upload_file

    async def upload_and_lose_robin(rows: Any) -> str:
        file_id = await upload(rows)
        await stage.store.jokes.forget_author(int(stage.robin.id))
        return file_id

    monkeypatch.setattr(stage.client, "upload_file", upload_and_lose_robin)
    assert "was taken back just now" in words(await ask(stage.morgan, "!finetune start"))
    assert JOKE in service.files["file-1"]
    assert service.deleted_files == ["file-1"]
    assert service.jobs["ftjob-1"]["status"] == "cancelled"
    assert await stage.store.jobs.active(stage.guild_id) is None


@pytest.mark.parametrize("ended", [False, True])
async def test_a_job_whose_start_was_never_noted_is_ended_with_its_model_at_the_next_start(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        await stage.store.jokes.import_starter(stage.guild_id)
        create = stage.client.create_job

        async def create_and_not_hear(*args: Any, **how: Any) -> Json:
            await create(*args, **how)
            raise ServiceUnavailable

        monkeypatch.setattr(stage.client, "create_job", create_and_not_hear)
        assert "offline right now" in words(await ask(stage.morgan, "!finetune start"))
        [(ticket, asked_at)] = (await stage.store.lineage.unanswered()).items()
        assert service.jobs["ftjob-1"]["metadata"]["ticket"] == ticket
        service.jobs["ftjob-of-others"] = {"id": "ftjob-of-others", "status": "running", "metadata": {}}
        model = end_job(service, "ftjob-1") if ended else None
    monkeypatch.setattr(time, "time", lambda: asked_at + STARTING_S + 1)
    async with on_stage(service.socket_path, tmp_path) as stage:
        async with asyncio.timeout(10):
            while await stage.store.lineage.unanswered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert service.jobs["ftjob-1"]["status"] == ("succeeded" if ended else "cancelled")
    assert model not in [each["id"] for each in service.models]
    assert service.jobs["ftjob-of-others"]["status"] == "running"


async def test_a_job_that_was_noted_or_refused_leaves_no_ticket(service: FakeService, stage: Stage) -> None:
    assert "nothing to train on yet" in words(await ask(stage.morgan, "!finetune start"))
    await stage.store.jokes.import_starter(stage.guild_id)
    service.refuse("/v1/fine_tuning/jobs", 409, "Not now.", "busy")
    await ask(stage.morgan, "!finetune start")
    assert await stage.store.lineage.unanswered() == {}
    service.refusals.clear()
    await ask(stage.morgan, "!finetune start")
    assert await stage.store.lineage.unanswered() == {}
    assert len(service.jobs) == 1


async def test_snapshots_that_nobody_needs_any_more_are_deleted_and_no_others(
    service: FakeService, tmp_path: Path
) -> None:
    long_ago, now = time.time() - 2 * STARTING_S, time.time()
    for file_id, name, created_at in (
        ("file-left", SNAPSHOT, long_ago),  # the bot was killed before it could delete it
        ("file-starting", SNAPSHOT, now),
        ("file-of-others", "theirs.jsonl", long_ago),
    ):
        service.file_cards[file_id] = {"id": file_id, "filename": name, "created_at": int(created_at)}
    async with on_stage(service.socket_path, tmp_path):
        async with asyncio.timeout(10):
            while not service.deleted_files:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert service.deleted_files == ["file-left"]


async def test_a_snapshot_goes_with_the_person_when_the_service_would_not_delete_it_before(
    service: FakeService, stage: Stage
) -> None:
    service.refusals["/v1/files/file-1"] = (503, {"error": {"message": "Not now.", "code": "loading"}}, {})
    await learned_from_robin(service, stage)
    assert JOKE in service.files["file-1"]
    assert service.deleted_files == []
    service.refusals.clear()
    service.file_cards["file-1"]["created_at"] -= 2 * STARTING_S
    await delete(stage)
    async with asyncio.timeout(10):
        while service.deleted_files != ["file-1"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_a_crash_left_half_done_is_finished_at_the_next_start(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        _, model = await learned_from_robin(service, stage)
        await stage.store.lineage.withdraw(int(stage.robin.id))  # and there it ended
        await stage.bot.close()
        assert await stage.store.joke_models.live(stage.guild_id) == model
        async with on_stage(service.socket_path, tmp_path, playground=stage.playground) as again:
            news = await stage.morgan.wait_for(lambda m: NEWS in m["content"])
            await settled(again)
            assert await again.store.joke_models.live(again.guild_id) is None
            assert model not in [each["id"] for each in service.models]
            await again.bot.close()
        async with on_stage(service.socket_path, tmp_path, playground=stage.playground) as last:
            await last.morgan.click(news, "Train again without it")
            await last.morgan.wait_for(lambda m: m["id"] == news["id"] and "Training again" in m["content"])
            assert len([m for m in await last.morgan.messages() if NEWS in m["content"]]) == 1, "told once"
