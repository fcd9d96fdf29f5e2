"""`/jokes import file:` on real discord.py: an attachment is read as the terminal's import reads a file."""

import io
import json
from typing import Any

import aiohttp
import pytest

from bot.cogs.library_import import IN_A_MESSAGE, NO_FILE
from tests.bot.test_commands import ask, words
from tests.support.people import Person
from tests.support.stage import Stage

JOKES = (
    'id,joke\n1,A duck walks into a bar.\n2,a DUCK walks into a bar\n3,ha\n4,"Ask a goose, please."\n5,A cow, mooing\n'
)


async def attach(person: Person, filename: str, content: bytes, **options: Any) -> str:
    """Use `/jokes import` with a file, as the page does; returns the bot's answer."""
    chosen = await person._command_content("jokes import", options)
    innermost = chosen["options"][0]["options"]
    innermost.append({"name": "file", "type": 11, "value": "0"})
    where = {"application_id": person.application_id, "guild_id": person.guild["id"], "channel_id": person.channel_id}
    form = aiohttp.FormData()
    form.add_field("payload_json", json.dumps({**where, "nonce": filename, "type": 2, "data": chosen}))
    form.add_field("files[0]", io.BytesIO(content), filename=filename)
    before = set(person.seen)
    await person.request("POST", "/interactions", data=form)
    answer = await person.wait_for(lambda m: m["author"].get("bot") and m["id"] not in before and m["content"])
    return words(answer)


async def test_a_file_brings_its_jokes_into_this_server_with_counts_and_reasons(stage: Stage) -> None:
    told = await attach(stage.morgan, "jokes.csv", JOKES.encode(), licence="MIT")
    assert "📦 jokes.csv: 5 rows read, **2** new, 1 here already or twice, 2 rejected." in told
    assert "-# 1 too short (under 3 characters); first in line 4" in told
    assert "-# 1 a row that has not 2 columns, as the first line has; first in line 6" in told
    assert "**2 jokes** here, and I may learn from all of them" in told
    jokes = (await stage.store.jokes.latest(stage.guild_id, 5))[::-1]
    assert [joke.text for joke in jokes] == ["A duck walks into a bar.", "Ask a goose, please."]
    assert {(j.provenance, j.licence, j.is_global, j.author_id) for j in jokes} == {("import", "MIT", False, None)}
    again = await attach(stage.morgan, "again.csv", JOKES.encode())
    assert "**0** new, 3 here already or twice" in again


async def test_jsonl_and_a_named_column_work_and_an_unclear_one_is_asked_for(stage: Stage) -> None:
    lines = "".join(json.dumps({"title": f"Title {n}", "post": f"Joke {n} about @everyone"}) + "\n" for n in range(3))
    unclear = await attach(stage.morgan, "jokes.jsonl", lines.encode())
    assert "Which column of jokes.jsonl holds the jokes?" in unclear
    assert "It has title, post. Say it like this: the option column: title" in unclear
    assert (await stage.store.jokes.count(stage.guild_id)).total == 0
    assert "3 rows read, **3** new" in await attach(stage.morgan, "more.jsonl", lines.encode(), column="post")


async def test_what_cannot_be_read_is_a_sentence_without_the_terminals_options(stage: Stage) -> None:
    files = {
        "latin.csv": ("joke\nDer Käse.\n".encode("cp1252"), "Line 2 of latin.csv is not UTF-8 text. Save the file"),
        "empty.csv": (b"", "is empty"),
        "jokes.docx": (b"PK", "is not a file I can read. It must be CSV"),
        "jokes.csv.gz": (b"\x1f\x8b\x08", "Unpack it first"),
        "jokes.parquet": (b"PAR1", "I read CSV, TSV and JSONL files here."),
        "quote.csv": (b'joke\n"never closed\n', "never closes"),
        "numbers.csv": (b"id,joke\n1,2\n", "Not one row was a joke."),
    }  # fmt: skip
    for filename, (content, sentence) in files.items():
        told = await attach(stage.morgan, filename, content)
        assert sentence in told, filename
        assert "--" not in told
    assert (await stage.store.jokes.count(stage.guild_id)).total == 0


async def test_a_file_over_the_limit_is_refused_with_the_numbers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bot.cogs.library_import.MAX_FILE_BYTES", 2**20
    )  # the playground takes no more than the real one
    told = await attach(stage.morgan, "large.csv", b"joke\n" + b"A duck, a joke\n" * 2**17)
    assert "large.csv has 1.9 MiB; I take 1 here. Split it" in told


async def test_importing_a_file_is_for_moderators(stage: Stage) -> None:
    assert "Only moderators" in await attach(stage.robin, "jokes.csv", JOKES.encode())
    assert (await stage.store.jokes.count(stage.guild_id)).total == 0


async def test_what_belongs_to_a_file_is_not_dropped_without_one(stage: Stage) -> None:
    assert words(await ask(stage.morgan, "!jokes import jokes.csv")) == NO_FILE
    await stage.morgan.command("jokes import", licence="MIT")
    await stage.morgan.wait_for(lambda m: m["content"] == NO_FILE and m["flags"] & 64)
    assert (await stage.store.jokes.count(stage.guild_id)).total == 0


async def test_a_file_in_a_message_is_not_taken_as_an_import(stage: Stage) -> None:
    before = set(stage.morgan.seen)
    await stage.morgan.say("!jokes import", files={"jokes.csv": JOKES.encode()})
    answer = await stage.morgan.wait_for(lambda m: m["author"].get("bot") and m["id"] not in before)
    assert words(answer) == IN_A_MESSAGE
    assert (await stage.store.jokes.count(stage.guild_id)).total == 0
    assert "Imported" in words(await ask(stage.morgan, "!jokes import"))
