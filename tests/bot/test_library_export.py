"""`jokes export` on real discord.py: the file that `punchline export` writes, as an attachment."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bot.cogs.library_export import MAY_NOT_ATTACH
from bot.exporting import export_jokes
from bot.playground import Playground
from bot.playground.permissions import ATTACH_FILES
from bot.playground.world import Overwrite
from bot.store import CONSENT_VERSION
from tests.bot.test_commands import ask, words
from tests.support.fake_service import FakeService
from tests.support.stage import Stage, make_settings, on_stage

TYPED, CONSENTED, IMPORTED = "Why do ducks quack? They can't bark.", "A form walks in.", "Zwei Jäger, ein Käse."


async def collect(stage: Stage) -> None:
    """Put one joke of each kind into the server, and one into another server."""
    await stage.store.jokes.add(stage.guild_id, int(stage.robin.id), TYPED, "message", None)
    await stage.store.jokes.add(stage.guild_id, int(stage.robin.id), CONSENTED, "modal", CONSENT_VERSION)
    await stage.store.jokes.import_texts(stage.guild_id, [IMPORTED], "CC0-1.0")
    await stage.store.jokes.import_texts(77, ["Another server's joke."], "MIT")


async def attached(stage: Stage, message: dict[str, Any]) -> bytes:
    """Read the one file of a message."""
    (file,) = message["attachments"]
    assert file["filename"] == "jokes.jsonl"
    async with stage.morgan._http.get(file["url"]) as response:
        return await response.read()


async def test_a_moderator_gets_the_file_that_the_terminal_writes_without_names_and_ids(
    stage: Stage, tmp_path: Path
) -> None:
    await collect(stage)
    answer = await ask(stage.morgan, "!jokes export")
    assert words(answer).startswith("📦 3 jokes: ")
    content = await attached(stage, answer)
    rows = [json.loads(line) for line in content.splitlines()]
    assert [(row["text"], row["provenance"]) for row in rows] == [
        (TYPED, "message"), (CONSENTED, "modal"), (IMPORTED, "import"),
    ]  # fmt: skip
    assert {tuple(row) for row in rows} == {("text", "provenance", "licence")}
    for whose in (stage.robin.id, stage.robin.name, str(stage.guild_id)):
        assert whose.encode() not in content


async def test_it_is_byte_for_byte_what_punchline_export_writes(stage: Stage, tmp_path: Path) -> None:
    await collect(stage)
    content = await attached(stage, await ask(stage.morgan, "!jokes export"))
    await stage.bot.close()
    await stage.store.close()
    target = tmp_path / "out.jsonl"
    assert await asyncio.to_thread(export_jokes, make_settings(tmp_path), target, stage.guild_id) == 0
    assert target.read_bytes() == content


async def test_the_slash_command_shows_it_to_the_moderator_alone(stage: Stage) -> None:
    await collect(stage)
    await stage.morgan.command("jokes export")
    answer = await stage.morgan.wait_for(lambda m: m["attachments"] and m["flags"] & 64)
    assert len((await attached(stage, answer)).splitlines()) == 3


async def test_exporting_is_for_moderators(stage: Stage) -> None:
    await collect(stage)
    assert "Only moderators" in words(await ask(stage.robin, "!jokes export"))
    await stage.robin.command("jokes export")
    refused = await stage.robin.wait_for(lambda m: "Only moderators" in m["content"] and m["flags"] & 64)
    assert refused["attachments"] == []


async def test_nothing_to_export_and_too_much_for_discord_are_sentences(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no jokes here to export yet" in words(await ask(stage.morgan, "!jokes export"))
    text = "x" * 900
    await stage.store.jokes.import_texts(stage.guild_id, [f"Joke {n} {text}" for n in range(1200)], "CC0-1.0")
    guild = stage.bot.get_guild(stage.guild_id)
    assert guild is not None
    monkeypatch.setattr(type(guild), "filesize_limit", 2**20)
    told = words(await ask(stage.morgan, "!jokes export"))
    assert "more than the 1 MiB" in told
    assert f"punchline export jokes.jsonl --guild {stage.guild_id}" in told


async def test_where_files_are_not_allowed_the_way_that_is_open_is_named(service: FakeService, tmp_path: Path) -> None:
    async with Playground(port=0) as playground:
        world = playground._world
        channel = world.guild.channels[int(playground.session.channel_id)]
        channel.overwrites.append(Overwrite(world.bot.id, 1, deny=ATTACH_FILES))
        async with on_stage(service.socket_path, tmp_path, playground=playground) as stage:
            await collect(stage)
            assert words(await ask(stage.morgan, "!jokes export")) == MAY_NOT_ATTACH
            await stage.morgan.command("jokes export")
            answer = await stage.morgan.wait_for(lambda m: m["attachments"])
            assert len((await attached(stage, answer)).splitlines()) == 3
