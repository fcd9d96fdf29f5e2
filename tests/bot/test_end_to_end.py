"""The whole way for real: discord.py, playground, socket, a tiny model in the service's process, a training child."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bot.test_commands import ask, words
from tests.support.service_process import ServiceProcess, model_table, running_service
from tests.support.stage import Stage, on_stage
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator

Json = dict[str, Any]


@pytest.fixture(scope="module")
def real_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("models")
    generator = save_tiny_generator(folder / "jokes", n_positions=256, n_layer=1, n_embd=16, n_head=2)
    classifier = save_tiny_classifier(folder / "moods")
    tables = model_table("jokes-mini", generator) + model_table("sentiment-mini", classifier, "classify")
    with running_service(tables) as service:
        yield service


async def test_a_real_model_answers_every_command(real_service: ServiceProcess, tmp_path: Path) -> None:
    async with on_stage(real_service.socket_path, tmp_path, temperature=0.0) as stage:
        first = await ask(stage.robin, "!complete --tokens 150 Once upon a time")
        again = await ask(stage.robin, "!complete --tokens 150 Once upon a time")
        assert first["content"].startswith("**Once upon a time**")
        assert first["content"] == again["content"]  # temperature 0 is greedy
        assert len(stage.robin.versions[first["id"]]) >= 3  # placeholder, growing, whole
        assert words(await ask(stage.robin, "!joke about cats"))
        assert "% sure" in words(await ask(stage.robin, "!sentiment I love this"))
        assert "🎤 **`jokes-mini`**" in words(await ask(stage.robin, "!models"))
        too_long = words(await ask(stage.robin, "!complete " + "word " * 60))
        assert "256 tokens" in too_long
        assert "300" in too_long or "299" in too_long
        await stage.robin.command("complete", text="Once upon a time", tokens=150)
        await stage.robin.wait_for(lambda m: m["content"] == first["content"] and "message_reference" not in m)


async def test_a_model_that_is_not_loaded_loads_when_asked_and_says_so(tmp_path: Path) -> None:
    generator = save_tiny_generator(tmp_path / "jokes", n_positions=512)
    tables = model_table("jokes-mini", generator) + model_table("tiny", generator)
    with running_service(tables, "preload = false") as service:
        async with on_stage(service.socket_path, tmp_path, answer_timeout_s=60.0) as stage:
            before = words(await ask(stage.robin, "!models"))
            assert before.count("⚪ not loaded") == 2
            assert "models: ready" in words(await ask(stage.robin, "!ping"))
            assert "loads at the first joke" in words(await ask(stage.morgan, "!model set tiny"))
            joke = await ask(stage.robin, "!joke", timeout_s=60)
            shown = [version["content"] for version in stage.robin.versions[joke["id"]]]
            assert any(content.startswith("⏳ Loading tiny … ") for content in shown), shown
            assert not joke["content"].startswith("⏳")
            after = await ask(stage.robin, "!models")
            assert "🎤 **`tiny`**\n-# 🟢 ready" in words(after)
            assert "⚪ not loaded" in words(after)
            [picture] = after["attachments"]
            assert "tiny " in picture["description"]
            offered = await stage.morgan.autocomplete("model set", "name", name="")
            assert [choice["name"] for choice in offered] == [
                "jokes-mini · not loaded",
                "tiny · ready, tells the jokes here",
            ]


async def test_many_at_once_and_a_stop_in_the_middle(real_service: ServiceProcess, tmp_path: Path) -> None:
    async with on_stage(real_service.socket_path, tmp_path) as stage:
        for number in range(12):
            await stage.robin.say(f"!complete --tokens 60 number {number}")

        def ended() -> list[Json]:
            answers = [m for m in stage.robin.seen.values() if m["author"].get("bot") and not m["components"]]
            told = ("**number", "The model had nothing to say")  # a model may end a text at once
            return [m for m in answers if m["content"].startswith(told)]

        await stage.robin.wait_for(lambda _: len(ended()) == 12, timeout_s=60)


@pytest.mark.timeout(600)
async def test_a_server_trains_its_own_model_and_jokes_go_on_meanwhile(
    real_service: ServiceProcess, tmp_path: Path
) -> None:
    async with on_stage(real_service.socket_path, tmp_path, edit_interval_s=0.3) as stage:
        refused = words(await ask(stage.morgan, "!finetune start", timeout_s=60))
        assert "nothing to train on yet" in refused
        for number in range(10):
            await stage.store.jokes.add(stage.guild_id, 1, f"Joke number {number}: knock, knock.", "modal", 1)
        refused = words(await ask(stage.morgan, "!finetune start", timeout_s=60))
        assert "50" in refused  # the service's own numbers
        assert "10 of the 10 jokes here" in refused

        await ask(stage.morgan, "!jokes import", timeout_s=60)
        message = await ask(stage.morgan, "!finetune start", timeout_s=60)
        await stage.morgan.wait_for(lambda m: m["id"] == message["id"] and "loss" in m["content"], timeout_s=90)
        assert words(await ask(stage.robin, "!joke", timeout_s=60))  # serving goes on
        assert "already running" in words(await ask(stage.morgan, "!finetune start", timeout_s=60))

        end = ("The new model is better", "is not better", "failed")
        done = await stage.morgan.wait_for(
            lambda m: m["id"] == message["id"] and any(text in m["content"] for text in end), timeout_s=400
        )
        assert "The new model is better" in done["content"], done["content"]
        live = await stage.store.settings.get(stage.guild_id, "joke_model")
        assert live is not None
        assert live.startswith(f"ft:jokes-mini:{stage.guild_id}:")
        assert f"🎤 **`{live}`**" in words(await ask(stage.robin, "!models", timeout_s=60))
        assert words(await ask(stage.robin, "!joke", timeout_s=60))
        await judge(stage, done, live)


async def judge(stage: Stage, card: Json, live: str) -> None:
    """The card has all there is to see, and what it offers works on the real service."""
    [shown] = card["embeds"]
    assert "Held-out loss" in shown["description"]
    assert "Held back by filter" in shown["description"]
    assert [field["value"].count("\n") for field in shown["fields"]] == [7, 7]
    assert card["attachments"][0]["description"].startswith("Loss curves over ")
    assert await stage.store.joke_models.live(stage.guild_id) == live
    assert "✅ better · 🎤 **live**" in words(await ask(stage.morgan, "!finetune history"))
    await stage.morgan.click(card, "Undo")
    await stage.morgan.wait_for(lambda m: m["id"] == card["id"] and "`jokes-mini` tells this server's" in m["content"])
    assert f"`{live}` tells" in words(await ask(stage.morgan, "!finetune promote 1", timeout_s=60))
    duel = await ask(stage.robin, "!duel", timeout_s=60)
    await stage.robin.wait_for(lambda m: m["id"] == duel["id"] and (m["components"] or "nothing different" in words(m)))
    assert "`jokes-mini` tells this server's jokes again" in words(await ask(stage.morgan, "!finetune rollback"))
