"""`models` and `model list|set`: the words, the picture beside them, the choice and what people type wrong."""

import asyncio
import io
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bot.cogs import model_words
from bot.errors import BadInput, ModelLoading, TooSlow
from bot.playground import Playground
from bot.playground.permissions import ATTACH_FILES
from bot.playground.world import Overwrite
from bot.service_client import ServiceClient, Timeouts
from tests.bot.test_commands import ask, words
from tests.support.fake_service import Fail, FakeService, card, device
from tests.support.people import Person
from tests.support.stage import Stage, on_stage

Json = dict[str, Any]

GIB = 2**30
XL = card(
    "gpt2-xl",
    weights="float16",
    bytes=int(2.9 * GIB),
    device_map={"layers 0-23": "cuda:0", "layers 24-47": "cuda:1"},
    device_bytes={"cuda:0": int(1.7 * GIB), "cuda:1": int(1.6 * GIB)},
    pinned=True,
)
LARGE = card("gpt2-large", state="loading", progress=0.43, device_bytes={"cuda:1": 2 * GIB}, weights="float16")
MEDIUM = card("gpt2-medium", state="unloaded", bytes=0, device_bytes={}, weights="auto", why="It left for gpt2-xl.")
BROKEN = card(
    "gpt-j-6b",
    state="failed",
    error="it needs 12.1 GiB, and 10.0 GiB are free.",
    device_bytes={},
    bytes=0,
    weights="auto",
)
WAITED = (
    "The model 'jokes-mini' is still loading (43 %) after 120 seconds, which is the limit here. Try again in a moment."
)
DEVICES = [device("cuda:0", 8, 2.0), device("cuda:1", 8, 4.0), device("cpu", 16, 3)]


def held(service: FakeService) -> None:
    """Four more models in all states, on three devices."""
    service.models += [XL, LARGE, MEDIUM, BROKEN]
    service.devices = DEVICES


async def fetched(person: Person, stage: Stage, url: str) -> bytes:
    assert url.startswith(stage.playground.base_url)
    async with person._http.get(url) as response:
        assert response.status == 200
        return await response.read()


async def test_models_says_what_is_loaded_where_and_how_each_one_is(service: FakeService, stage: Stage) -> None:
    held(service)
    for text in ("!models", "!model list", "!model"):
        lines = words(await ask(stage.robin, text)).splitlines()
        assert lines[1:-1] == [
            "Models",
            "🎤 **`jokes-mini`**",
            "-# 🟢 ready · writes · float32 · 20 MiB · layers 0–5 on cpu",
            "**`sentiment-mini`**",
            "-# 🟢 ready · reads moods · float32 · 20 MiB · layers 0–5 on cpu",
            "**`gpt2-xl`** 📌",
            "-# 🟢 ready · writes · float16 · 3.3 GiB · layers 0–23 on cuda:0, 24–47 on cuda:1",
            "**`gpt2-large`**",
            "-# 🟡 loading 43 % · writes · float16 · 2.0 GiB",
            "**`gpt2-medium`**",
            "-# ⚪ not loaded: it left for gpt2-xl · writes",
            "**`gpt-j-6b`**",
            "-# 🔴 failed: it needs 12.1 GiB, and 10.0 GiB are free · writes",
        ]


async def test_the_picture_is_in_the_embed_with_words_for_those_who_do_not_see_it(
    service: FakeService, stage: Stage
) -> None:
    held(service)
    answer = await ask(stage.robin, "!models")
    [file] = answer["attachments"]
    [embed] = answer["embeds"]
    assert embed["image"]["url"] == file["url"]
    assert file["content_type"] == "image/png"
    assert file["description"] == embed["image"]["description"]
    start = "Memory of the devices. cuda:0, 6.0 GiB free of 8.0 GiB: gpt2-xl 1.7 GiB, other 0.30 GiB. cuda:1"
    assert file["description"].startswith(start)
    png = Image.open(io.BytesIO(await fetched(stage.robin, stage, file["url"])))
    assert png.size == (file["width"], file["height"])
    await stage.robin.command("models")
    await stage.robin.wait_for(lambda m: m["attachments"] and m["id"] != answer["id"])


async def test_without_devices_there_is_no_picture(service: FakeService, stage: Stage) -> None:
    answer = await ask(stage.robin, "!models")
    assert answer["attachments"] == []
    assert "jokes-mini" in words(answer)


def test_one_that_nobody_asked_for_yet_says_when_it_loads() -> None:
    shown = model_words.describe(card("gpt2", state="unloaded", why="", device_bytes={}, bytes=0), is_live=False)
    assert shown == "**`gpt2`**\n-# ⚪ not loaded (loads when asked) · writes · float32"


def test_names_are_shown_as_they_are_and_cannot_break_out() -> None:
    assert model_words.code("my_model*2") == "`my_model*2`"
    assert model_words.code("a`b @everyone") == "`a'b @\u200beveryone`"
    assert len(model_words.code("x" * 500)) == 102


def test_a_default_that_is_not_there_is_said_and_so_is_an_empty_service() -> None:
    shown = model_words.overview([card("llama")], "jokes-mini", "jokes-mini").description or ""
    assert shown.startswith("⚠️ `jokes-mini` should tell the jokes, but is not there. A moderator can choose another")
    assert model_words.overview([], "jokes-mini", "jokes-mini").description == "There are none."


async def test_a_server_of_the_openai_shape_is_listed_with_what_it_says(service: FakeService, stage: Stage) -> None:
    service.models = [{"id": "jokes-mini", "object": "model"}, {"id": "llama", "object": "model", "owned_by": "vllm"}]
    shown = words(await ask(stage.robin, "!models"))
    assert "🎤 **`jokes-mini`**\n-# 🟢 ready · writes\n**`llama`**\n-# 🟢 ready · writes" in shown


async def test_another_servers_models_are_neither_listed_nor_drawn_nor_offered(
    service: FakeService, stage: Stage
) -> None:
    ours, theirs = f"ft:jokes-mini:{stage.guild_id}:ftjob-1", "ft:jokes-mini:123456:ftjob-2"
    service.models += [card(ours), card(theirs)]
    service.devices = DEVICES
    answer = await ask(stage.robin, "!models")
    assert ours in words(answer)
    assert theirs not in str(answer)
    assert theirs.split(":")[-1] not in answer["attachments"][0]["description"]
    offered = await stage.morgan.autocomplete("model set", "name", name="ft:")
    assert [choice["value"] for choice in offered] == [ours]
    assert "There is no model called" in words(await ask(stage.morgan, f"!model set {theirs}"))


async def test_moderators_choose_the_joke_model(service: FakeService, stage: Stage) -> None:
    held(service)
    assert "Only moderators" in words(await ask(stage.robin, "!model set gpt2-xl"))
    await stage.robin.command("model set", name="gpt2-xl")
    await stage.robin.wait_for(lambda m: "Only moderators" in m["content"] and m["flags"] & 64)
    assert await stage.store.settings.get(stage.guild_id, "joke_model") is None
    assert words(await ask(stage.morgan, "!model set GPT2-xl")).strip() == (
        "✅ `gpt2-xl` tells the jokes here now; before, it was `jokes-mini`."
    )
    assert "🎤 **`gpt2-xl`** 📌" in words(await ask(stage.robin, "!models"))
    await ask(stage.robin, "!joke")
    body = service.bodies("/v1/completions")[-1]
    assert body["model"] == "gpt2-xl"
    assert body["prompt"].count("JOKE:") == 5  # a foreign model is shown examples
    assert "as before" in words(await ask(stage.morgan, "!model set `gpt2-xl`"))


async def test_one_that_is_not_loaded_can_be_chosen_and_says_what_to_expect(service: FakeService, stage: Stage) -> None:
    held(service)
    assert "It is not loaded: it loads at the first joke" in words(await ask(stage.morgan, "!model set gpt2-medium"))
    assert "It is loading 43 % right now" in words(await ask(stage.morgan, "!model set gpt2-large"))


async def test_unknown_and_refused_names_get_the_list_with_the_closest_first(
    service: FakeService, stage: Stage
) -> None:
    held(service)
    assert words(await ask(stage.morgan, "!model set gpt2-lage")).strip() == (
        "There is no model called `gpt2-lage`. Did you mean `gpt2-large`? These can tell jokes here: `gpt2-large`"
        " (loading 43 %), `gpt2-xl`, `gpt2-medium` (not loaded), `jokes-mini`."
    )
    moods = words(await ask(stage.morgan, "!model set sentiment-mini"))
    assert moods.strip().startswith("`sentiment-mini` reads moods and cannot tell jokes. These can tell jokes here: ")
    broken = words(await ask(stage.morgan, "!model set gpt-j-6b")).strip()
    assert broken.startswith("`gpt-j-6b` could not be loaded: it needs 12.1 GiB, and 10.0 GiB are free. These can")
    nonsense = words(await ask(stage.morgan, "!model set <@1> @everyone"))
    assert "Did you mean" not in nonsense
    assert "`jokes-mini`" in nonsense
    assert await stage.store.settings.get(stage.guild_id, "joke_model") is None


async def test_the_slash_command_offers_what_matches_with_its_state(service: FakeService, stage: Stage) -> None:
    held(service)
    everything = await stage.morgan.autocomplete("model set", "name", name="")
    assert [(choice["value"], choice["name"]) for choice in everything] == [
        ("jokes-mini", "jokes-mini · ready, tells the jokes here"),
        ("gpt2-xl", "gpt2-xl · ready"),
        ("gpt2-large", "gpt2-large · loading 43 %"),
        ("gpt2-medium", "gpt2-medium · not loaded"),
        ("gpt-j-6b", "gpt-j-6b · failed"),
    ]

    async def offered(typed: str) -> list[str]:
        return [choice["value"] for choice in await stage.morgan.autocomplete("model set", "name", name=typed)]

    assert await offered("GPT2") == ["gpt2-xl", "gpt2-large", "gpt2-medium"]
    assert await offered("mini") == ["jokes-mini"]
    assert (await offered("gpt2xl"))[0] == "gpt2-xl"
    assert await offered("weather") == []
    await stage.morgan.command("model set", name="gpt2-medium")
    await stage.morgan.wait_for(lambda m: "`gpt2-medium` tells the jokes here now" in m["content"])


async def test_a_service_that_is_away_offers_nothing_and_the_command_says_so(
    service: FakeService, stage: Stage
) -> None:
    await service.stop()
    assert await stage.morgan.autocomplete("model set", "name", name="gpt") == []
    assert "offline right now" in words(await ask(stage.morgan, "!model set gpt2-xl"))


def test_at_most_as_many_are_offered_as_discord_takes_with_names_cut_to_fit() -> None:
    cards = [card(f"model-{number:02}") for number in range(40)]
    assert len(model_words.choices(cards, "model", "")) == 25
    long = f"ft:jokes-mini:{10**18}:{'x' * 66}"
    [(label, value)] = model_words.choices([card(long, state="unloaded"), card("y" * 101)], "", long)
    assert value == long
    assert len(label) <= 100
    assert label.endswith("… · not loaded, tells the jokes here")


def test_a_long_list_is_cut_to_what_discord_takes_and_says_so() -> None:
    cards = [card(f"model-{number:03}-{'x' * 80}", error="e" * 500, state="failed") for number in range(60)]
    embed = model_words.overview(cards, cards[0]["id"], "jokes-mini")
    assert len(embed) <= 6000
    shown = embed.description or ""
    assert len(shown) <= 4096
    assert f"… and {60 - shown.count('-#')} more." in shown
    many = "".join(f"`{name}`" for name in (card["id"] for card in cards))
    assert len(many) > 2000
    with pytest.raises(BadInput) as refused:
        model_words.choose([card(each["id"]) for each in cards], "model-007")
    assert "and 48 more: `/models` lists all" in str(refused.value)
    assert len(str(refused.value)) <= 2000


def test_where_nothing_can_tell_jokes_it_says_so() -> None:
    with pytest.raises(BadInput, match="None can right now"):
        model_words.choose([BROKEN, card("sentiment-mini", "classify")], "gpt2")


async def test_the_choice_outlives_a_restart_and_one_that_is_gone_is_said(
    service: FakeService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held(service)
    async with on_stage(service.socket_path, tmp_path) as stage:
        await ask(stage.morgan, "!model set gpt2-xl")
        guild = stage.guild_id
    async with on_stage(service.socket_path, tmp_path) as stage:
        assert stage.guild_id == guild
        await ask(stage.robin, "!joke")
        assert service.bodies("/v1/completions")[-1]["model"] == "gpt2-xl"
        service.models.remove(XL)
        service.refuse("gpt2-xl", 404, "There is no model of that name.", "model_not_found")
        gone = "`gpt2-xl` is gone, so `jokes-mini` tells the jokes. A moderator can choose another with `/model set`."
        with caplog.at_level(logging.WARNING):
            assert (await ask(stage.robin, "!joke"))["content"] == f"Why not?\n-# {gone}"
        assert service.bodies("/v1/completions")[-1]["model"] == "jokes-mini"
        assert "gpt2-xl is gone" in caplog.text
        shown = words(await ask(stage.robin, "!models"))
        assert f"⚠️ {gone}" in shown
        assert "🎤 **`jokes-mini`**" in shown


async def test_a_model_that_is_still_loading_after_the_wait_is_a_sentence_with_the_time(
    service: FakeService, stage: Stage
) -> None:
    service.refuse("jokes-mini", 503, WAITED, "model_loading", retry_after_s=12)
    assert words(await ask(stage.robin, "!joke")).strip() == f"{WAITED[:-22].strip()} Try again in 12 seconds."
    service.refusals.clear()
    service.answer = [Fail(WAITED, "model_loading")]
    assert words(await ask(stage.robin, "!joke")).strip() == WAITED


async def test_a_mood_asked_of_a_model_that_takes_long_to_load_is_told_so(service: FakeService, tmp_path: Path) -> None:
    service.models = [card("sentiment-mini", "classify", state="loading")]
    service.classifying = asyncio.Event()
    async with ServiceClient(service.socket_path, timeouts=Timeouts(call_s=0.3)) as client:
        with pytest.raises(ModelLoading) as told:
            await client.classify("sentiment-mini", "I love this")
        assert str(told.value) == "The model sentiment-mini is still loading. Try again in a moment."
        service.models = [card("sentiment-mini", "classify")]
        with pytest.raises(TooSlow):
            await client.classify("sentiment-mini", "I love this")


async def test_models_that_are_not_loaded_are_no_reason_to_worry(service: FakeService, stage: Stage) -> None:
    service.models = [card("jokes-mini", state="unloaded"), card("sentiment-mini", "classify", state="unloaded")]
    assert "models: ready" in words(await ask(stage.robin, "!ping"))


async def test_where_files_are_not_allowed_the_memory_is_told_in_words(service: FakeService, tmp_path: Path) -> None:
    held(service)
    async with Playground(port=0) as playground:
        world = playground._world
        channel = world.guild.channels[int(playground.session.channel_id)]
        channel.overwrites.append(Overwrite(world.bot.id, 1, deny=ATTACH_FILES))
        async with on_stage(service.socket_path, tmp_path, playground=playground) as stage:
            answer = await ask(stage.robin, "!models")
    assert answer["attachments"] == []
    assert "cuda:0, 6.0 GiB free of 8.0 GiB: gpt2-xl 1.7 GiB" in words(answer)


async def test_several_who_ask_at_once_all_get_their_picture(service: FakeService, stage: Stage) -> None:
    held(service)
    answers = await asyncio.gather(*(ask(stage.robin, "!models") for _ in range(6)))
    assert len({answer["attachments"][0]["size"] for answer in answers}) == 1
