"""What `punchline doctor` sees, and what it says to do about it."""

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot import doctor
from bot.config import BotSettings, Settings
from bot.doctor import Finding, findings
from bot.playground import Playground
from model_service.config import ServiceSettings
from tests.operations.builders import short_folder
from tests.support.fake_service import FakeService, card


@pytest.fixture
def home() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


async def seen(settings: Settings, topic: str, discord_api: str = "http://127.0.0.1:9") -> list[Finding]:
    return [finding async for finding in findings(settings, discord_api) if finding.topic == topic]


async def test_a_good_token_is_named_by_its_application(home: Path) -> None:
    async with Playground(port=0) as playground:
        settings = Settings(home=home, discord_token=playground.bot_token)
        (token,) = await seen(settings, "token", playground.api_url)
        (intents,) = await seen(settings, "intents", playground.api_url)
    assert (token.seen, token.remedy) == ("belongs to Punchline", "")
    assert (intents.seen, intents.remedy) == ("message content is on", "")


async def test_a_missing_intent_says_what_still_works_and_where_to_switch_it_on(home: Path) -> None:
    async with Playground(port=0) as playground:
        playground.allow_message_content(False)
        settings = Settings(home=home, discord_token=playground.bot_token)
        (intents,) = await seen(settings, "intents", playground.api_url)
    assert "slash commands, mentions and direct messages work" in intents.seen
    assert intents.remedy.startswith("switch it on: https://discord.com/developers/applications")


async def test_a_refused_token_says_where_to_copy_it_and_does_not_show_it(home: Path) -> None:
    async with Playground(port=0) as playground:
        (token,) = await seen(Settings(home=home, discord_token="not-the-token"), "token", playground.api_url)
    assert token.seen == "Discord refuses it"
    assert "Reset Token" in token.remedy
    assert "not-the-token" not in str(token)


async def test_no_network_is_not_blamed_on_the_token(home: Path) -> None:
    (token,) = await seen(Settings(home=home, discord_token="t"), "token")
    assert token.seen.startswith("Discord cannot be reached")
    assert token.remedy == "check the network and any proxy"


async def test_no_token_is_no_problem(home: Path) -> None:
    (token,) = await seen(Settings(home=home), "token")
    assert (token.seen, token.remedy) == ("none; `punchline run` opens the playground instead of Discord", "")


async def test_a_service_that_is_not_there_says_how_to_start_it(home: Path) -> None:
    (service,) = await seen(Settings(home=home), "service")
    assert service.seen == f"nothing answers at {home}/model.sock"
    assert service.remedy == "start it: `make run`, or `punchline serve`"


async def test_a_service_that_listens_but_never_answers_is_a_problem(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOOK_LIMIT_S", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "model.sock"))
        listener.listen()
        (service,) = await seen(Settings(home=home), "service")
    assert "took longer than 0.2 seconds" in service.seen
    assert service.remedy == f"look into {home}/logs/service.log"


def test_a_socket_that_others_may_use_is_a_problem(home: Path) -> None:
    path = home / "model.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        assert doctor.socket(path) == Finding(
            "socket", f"{path} has mode 0666, open to others", f"close it: chmod 600 {path}"
        )
        path.chmod(0o600)
        assert not doctor.socket(path).remedy


def test_a_model_the_service_does_not_hold_is_told_with_those_it_holds(home: Path) -> None:
    settings = Settings(home=home, bot=BotSettings(joke_model="gpt5"))
    cards = [{"id": "jokes-mini", "state": "ready"}, {"id": "sentiment-mini", "state": "loading"}]
    joke, complete, sentiment = doctor.models(settings, cards)
    assert joke.seen == "gpt5 (joke_model) is not held by the service"
    assert joke.remedy.startswith("set bot.joke_model to one of: jokes-mini, sentiment-mini;")
    assert (complete.seen, sentiment.seen) == (
        "jokes-mini (complete_model): ready",
        "sentiment-mini (sentiment_model): loading",
    )


def test_a_model_that_is_not_loaded_is_fine_and_one_that_failed_says_why(home: Path) -> None:
    settings = Settings(home=home)
    cards = [
        {"id": "jokes-mini", "state": "unloaded", "error": None},
        {"id": "sentiment-mini", "state": "failed", "error": "config.json is missing"},
    ]
    joke, _, sentiment = doctor.models(settings, cards)
    assert joke == Finding("model", "jokes-mini (joke_model): not loaded; it loads when asked")
    assert sentiment.seen == "sentiment-mini (sentiment_model) could not be loaded: config.json is missing"
    assert sentiment.remedy == "look into logs/service.log"


async def test_a_service_that_is_not_ready_says_which_models_it_waits_for(home: Path) -> None:
    async with FakeService() as fake:
        settings = Settings(home=home, service=ServiceSettings(socket=fake.socket_path))
        fake.models = [card("jokes-mini"), card("sentiment-mini", "classify", state="unloaded")]
        (service,) = await seen(settings, "service")
        assert (service.seen, service.remedy) == (f"ready at {fake.socket_path}", "")
        assert not any(finding.remedy for finding in await seen(settings, "model"))
        fake.ready = False
        fake.models += [card("gpt2", state="loading"), card("gpt2-xl", state="failed", error="no room")]
        (service,) = await seen(settings, "service")
        assert service.seen.endswith("its models are not all ready: gpt2 loading, gpt2-xl failed")
        assert service.remedy.startswith("wait; if it stays so, look into ")


def test_a_home_that_others_may_write_is_a_problem(home: Path) -> None:
    home.chmod(0o700)
    assert not doctor.home(home).remedy
    home.chmod(0o777)
    assert doctor.home(home).remedy == f"close it: chmod go-w {home}"


def test_a_full_disk_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total, used, _ = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, used, 10**9))  # type: ignore[attr-defined]
    found = doctor.disk(home)
    assert found.seen == f"1.0 GB free at {home}"
    assert found.remedy == "free some space: a fine-tune may need 2 GB"


def test_a_broken_database_is_a_problem(home: Path) -> None:
    path = home / "punchline.db"
    assert not doctor.database(path).remedy
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jokes (text)")
    connection.close()
    assert not doctor.database(path).remedy
    path.write_bytes(b"not a database, though long enough to be read as one" * 100)
    found = doctor.database(path)
    assert "file is not a database" in found.seen
    assert found.remedy


async def test_every_line_is_ok_or_a_problem_with_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await doctor.examine(Settings(home=home)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 6
    assert all(line.startswith("ok  ") or (line.startswith("problem  ") and "What to do: " in line) for line in lines)
