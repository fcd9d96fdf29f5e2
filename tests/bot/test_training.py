"""The fine-tune as moderators see it, on real discord.py against the playground; the service plays its part."""

import json
from pathlib import Path
from typing import Any

from tests.bot.test_commands import ask, words
from tests.support.fake_service import FakeService
from tests.support.stage import Stage, on_stage

Json = dict[str, Any]
COUNTS = {"train": 180, "held_out": 33, "too_long": 0, "duplicates": 0}
FIGURES = {"val_loss_before": 3.5, "val_loss_after": 3.15, "counts": COUNTS, "step": 200, "total_steps": 200}


async def started(stage: Stage) -> Json:
    """Import jokes, start training, and return the progress message."""
    await stage.store.jokes.import_starter(stage.guild_id)
    message = await ask(stage.morgan, "!finetune start")
    assert "Training this server's jokes" in words(message)
    return message


async def changed(stage: Stage, message: Json, text: str) -> str:
    """Wait until a message reads so."""
    return str((await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and text in m["content"]))["content"])


async def test_training_is_for_moderators_on_both_surfaces(service: FakeService, stage: Stage) -> None:
    for text in ("!finetune start", "!finetune status", "!finetune cancel"):
        assert "Only moderators" in words(await ask(stage.robin, text)), text
    await stage.robin.command("finetune start")
    await stage.robin.wait_for(lambda m: "Only moderators" in m["content"] and m["flags"] & 64)
    assert service.jobs == {}


async def test_the_snapshot_is_what_may_train_and_nothing_else(service: FakeService, stage: Stage) -> None:
    await ask(stage.robin, "!addjoke What is brown and sticky? A stick.")
    await started(stage)
    rows = [json.loads(line) for line in service.files["file-1"].splitlines()]
    kept = await stage.store.jokes.trainable(stage.guild_id)
    assert rows == [{"id": str(j.id), "prompt": "JOKE:", "completion": f" {j.text}"} for j in kept]
    assert not any("sticky" in row["completion"] and "brown" in row["completion"] for row in rows)
    [body] = service.bodies("/v1/fine_tuning/jobs")
    assert (body["model"], body["suffix"]) == ("jokes-mini", str(stage.guild_id))


async def test_progress_is_one_message_edited_with_bar_step_loss_and_time(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    service.jobs["ftjob-1"].update(
        status="running", punchline={"step": 90, "total_steps": 200, "loss": 3.2109, "eta_s": 95, "counts": COUNTS}
    )
    shown = await changed(stage, message, "step 90 of 200")
    assert "180 jokes to learn from, 33 to test with" in shown
    assert "█████████░░░░░░░░░░░" in shown
    for part in ("**45%**", "loss 3.21", "about 2 min left"):
        assert part in shown
    status = words(await ask(stage.morgan, "!finetune status"))
    assert "step 90 of 200" in status
    assert f"<#{message['channel_id']}>" in status


async def test_the_disk_that_a_training_needs_is_said_before_its_first_step(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    service.jobs["ftjob-1"].update(punchline={"disk_bytes": 87 * 2**20, "counts": COUNTS})
    shown = await changed(stage, message, "of disk")
    assert "Waiting for its turn … It takes at most 87 MiB of disk." in shown
    service.jobs["ftjob-1"].update(status="running")
    assert "Warming up … It takes at most 87 MiB of disk." in await changed(stage, message, "Warming up")


async def test_better_weights_are_used_at_once_and_the_figures_are_shown(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    tuned = f"ft:jokes-mini:{stage.guild_id}:ftjob-1"
    gate = {"passed": True, "reasons": []}
    service.jobs["ftjob-1"].update(status="succeeded", fine_tuned_model=tuned, punchline={**FIGURES, "gate": gate})
    shown = await changed(stage, message, "The new model is better")
    assert "On 33 jokes it never saw, its loss is 3.150 against 3.500 (-10.0%); lower is better." in shown
    assert "goes back to `jokes-mini`" in shown
    await ask(stage.robin, "!joke")
    assert service.bodies("/v1/completions")[-1]["model"] == tuned
    assert service.bodies("/v1/completions")[-1]["prompt"] == "JOKE:"
    assert "was better, and is in use" in words(await ask(stage.morgan, "!finetune status"))


async def test_weights_that_are_not_better_change_nothing_and_the_reasons_are_told(
    service: FakeService, stage: Stage
) -> None:
    message = await started(stage)
    gate = {"passed": False, "reasons": ["The loss on the held-out jokes rose."]}
    service.jobs["ftjob-1"].update(
        status="succeeded", fine_tuned_model="ft:jokes-mini:1:x", punchline={**FIGURES, "gate": gate}
    )
    shown = await changed(stage, message, "not better")
    assert "• The loss on the held-out jokes rose." in shown
    await ask(stage.robin, "!joke")
    assert service.bodies("/v1/completions")[-1]["model"] == "jokes-mini"


async def test_a_failed_run_says_why_and_changes_nothing(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    service.jobs["ftjob-1"].update(status="failed", error={"message": "The disk is full."})
    shown = await changed(stage, message, "Training failed")
    assert "The disk is full." in shown
    assert "`jokes-mini` goes on telling jokes" in shown
    assert "it failed" in words(await ask(stage.morgan, "!finetune status"))


async def test_cancel_stops_the_job_and_another_can_start(service: FakeService, stage: Stage) -> None:
    assert "No training is running" in words(await ask(stage.morgan, "!finetune cancel"))
    message = await started(stage)
    assert "already running here" in words(await ask(stage.morgan, "!finetune start"))
    await ask(stage.morgan, "!finetune cancel")
    await changed(stage, message, "Training was cancelled")
    assert "ftjob-2" in words(await ask(stage.morgan, "!finetune start"))


async def test_too_few_jokes_says_how_many_there_are_and_how_to_get_more(service: FakeService, stage: Stage) -> None:
    await ask(stage.robin, "!addjoke What is brown and sticky? A stick.")
    shown = words(await ask(stage.morgan, "!finetune start"))
    assert "0 of the 1 jokes here may be used for training" in shown
    assert "/addjoke" in shown
    await stage.store.jokes.add(stage.guild_id, 1, "Why? Because.", "modal", 1)
    service.refuse("/v1/fine_tuning/jobs", 400, "Training needs 50 jokes; there is 1.", "too_few_examples")
    shown = words(await ask(stage.morgan, "!finetune start"))
    assert shown.startswith("Training needs 50 jokes; there is 1.\n")
    assert "1 of the 2 jokes here may be used for training" in shown


async def test_service_down_at_the_start_is_a_sentence(service: FakeService, stage: Stage) -> None:
    await stage.store.jokes.import_starter(stage.guild_id)
    await service.stop()
    assert "offline right now" in words(await ask(stage.morgan, "!finetune start"))
    assert await stage.store.jobs.active(stage.guild_id) is None


async def test_a_restart_of_the_service_is_waited_out(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    await service.stop()
    await changed(stage, message, "The model service is away")
    service.jobs["ftjob-1"].update(status="running", punchline={"step": 5, "total_steps": 10, "loss": 3.0})
    await service.start()
    await changed(stage, message, "step 5 of 10")


async def test_a_restart_of_the_bot_goes_on_editing_the_same_message(service: FakeService, tmp_path: Path) -> None:
    async with on_stage(service.socket_path, tmp_path) as stage:
        message = await started(stage)
        await stage.bot.close()
        await stage.store.close()
        service.jobs["ftjob-1"].update(status="running", punchline={"step": 7, "total_steps": 10, "loss": 3.0})
        async with on_stage(service.socket_path, tmp_path, playground=stage.playground):
            await changed(stage, message, "step 7 of 10")


async def test_a_job_the_service_has_lost_ends_with_a_sentence(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    service.jobs.clear()
    await changed(stage, message, "does not know this training any more")
    assert await stage.store.jobs.active(stage.guild_id) is None


async def test_a_deleted_progress_message_is_written_anew(service: FakeService, stage: Stage) -> None:
    message = await started(stage)
    await stage.morgan.delete(message["id"])
    service.jobs["ftjob-1"].update(status="running", punchline={"step": 5, "total_steps": 10, "loss": 3.0})
    again = await stage.morgan.wait_for(lambda m: "step 5 of 10" in m["content"])
    assert again["id"] != message["id"]
    service.jobs["ftjob-1"]["punchline"]["step"] = 6
    await changed(stage, again, "step 6 of 10")
    job = await stage.store.jobs.active(stage.guild_id)
    assert job is not None
    assert str(job.message_id) == again["id"]


async def test_started_from_a_slash_command_the_message_is_the_bots_to_edit(service: FakeService, stage: Stage) -> None:
    await stage.store.jokes.import_starter(stage.guild_id)
    await stage.morgan.command("finetune start")
    message = await stage.morgan.wait_for(lambda m: "Training this server's jokes" in m["content"])
    service.jobs["ftjob-1"].update(status="running", punchline={"step": 5, "total_steps": 10, "loss": 3.0})
    await changed(stage, message, "step 5 of 10")
