"""The whole way for real: votes train a model in the service's child, and whoever voted can take it out of use."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.errors import ModelMissing
from bot.service_client import CompletionRequest
from tests.bot.test_commands import ask, words
from tests.support.service_process import ServiceProcess, model_table, running_service
from tests.support.stage import Stage, on_stage
from tests.support.tiny_models import save_tiny_generator
from tests.training.test_preferences import make_pairs


@pytest.fixture(scope="module")
def real_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("models")
    generator = save_tiny_generator(folder / "jokes", n_positions=256, n_layer=1, n_embd=16, n_head=2)
    with running_service(model_table("jokes-mini", generator)) as service:
        yield service


async def voted(stage: Stage) -> None:
    """Store 100 pairs of answers that Robin liked and disliked."""
    texts = [text for pair in make_pairs() for text in (pair.chosen, pair.rejected)]
    for place, text in enumerate(texts):
        told = {"prompt": "JOKE:", "text": text.strip(), "model": "jokes-mini"}
        await stage.store.votes.told(stage.guild_id, place + 1, int(stage.morgan.id), "", "message", **told)
        await stage.store.votes.vote(place + 1, int(stage.robin.id), -1 if place % 2 else 1)


@pytest.mark.timeout(300)
async def test_votes_train_a_model_that_leaves_with_the_person_who_voted(
    real_service: ServiceProcess, tmp_path: Path
) -> None:
    async with on_stage(real_service.socket_path, tmp_path, edit_interval_s=0.3) as stage:
        await voted(stage)
        message = await ask(stage.morgan, "!finetune start votes", timeout_s=60)
        card = await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and m["embeds"], timeout_s=240)
        assert "**Training from votes**" in card["content"], card["content"]
        [job] = await stage.store.jobs.history(stage.guild_id)
        assert job.model is not None
        state = await stage.client.job(job.job_id)
        assert state["punchline"]["metrics"]["accuracy_after"] > 0.5
        async with stage.client.complete(CompletionRequest(job.model, "JOKE:", 4, 1.0, 1.0)) as told:
            async for _ in told:
                pass

        await stage.robin.say("!privacy delete")
        question = await stage.robin.wait_for(lambda m: m["components"] and "cannot be undone" in m["content"])
        assert f"training #1: `{job.model}`" in question["content"]
        await stage.robin.click(question, "Erase my jokes")
        await stage.robin.wait_for(lambda m: "and forgot you" in m["content"])
        async with asyncio.timeout(60):
            while await stage.store.lineage.unsettled():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with pytest.raises(ModelMissing):
            await stage.client.delete_model(job.model)
        assert "🧹 withdrawn" in words(await ask(stage.morgan, "!finetune history"))
        assert (await stage.store.votes.count(stage.guild_id)).votes == 0
