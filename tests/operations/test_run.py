"""`punchline run` for real: both processes, the playground, a restart, and a clean end."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp

from bot.playground import Playground
from bot.run import bot_program, service_program
from tests.operations.builders import clean_environment, punchline, short_folder, write_tiny_models
from tests.support.people import Json, Person


@contextmanager
def started(folder: Path, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """`punchline run` in a folder; ended for good when the block is left."""
    with subprocess.Popen(
        [sys.executable, "-m", "bot", "run"],
        cwd=folder,
        env=clean_environment(PUNCHLINE_PLAYGROUND__PORT="0", PUNCHLINE_BOT__JOKE_MAX_TOKENS="12", **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # its children end with it


@asynccontextmanager
async def member(base_url: str) -> AsyncIterator[Person]:
    """The playground's member, as the page would be."""
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{base_url}/playground/session") as response:
            session = await response.json()
        async with Person(http, base_url, session["user_token"], session["channel_id"]) as person:
            yield person


def children(pid: int) -> dict[str, int]:
    """The process ids of a process's children, by the module they run."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        argv = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if "-m" in argv:  # not yet, while it is being started
            found[argv[argv.index("-m") + 1]] = int(child)
    return found


def environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


async def tells_a_joke(person: Person, known: set[str]) -> Json:
    """Say `!joke` and wait for an answer that is not among the known messages."""
    await person.say("!joke")

    def finished(message: Json) -> bool:
        return bool(message["author"].get("bot") and message["id"] not in known and message["components"])

    return await person.wait_for(finished, timeout_s=30)


async def test_one_command_runs_everything_restarts_the_dead_and_ends_cleanly() -> None:
    with short_folder() as folder, started_with_models(folder) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.startswith("Punchline is ready: the playground is at http://127.0.0.1:")
        base_url = line.split("is at ")[1].split()[0]
        async with member(base_url) as robin:
            first = await tells_a_joke(robin, set())
            before = children(process.pid)
            assert "DISCORD_TOKEN" not in environment(before["model_service"])
            os.kill(before["bot"], signal.SIGKILL)
            await until_bot_is_back(process.pid, before["bot"], robin)
            await tells_a_joke(robin, {first["id"]})
        process.terminate()
        out, err = await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0
        assert out == "", "one line is all it prints"
        assert err.startswith("The bot was ended by SIGKILL. Starting it again in 0.5 s."), err
        assert len(err.splitlines()) == 1, err
        assert "model.sock" not in os.listdir(folder / "var")
        assert not set(map(str, before.values())) & set(os.listdir("/proc"))


@contextmanager
def started_with_models(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    write_tiny_models(folder)
    with started(folder) as process:
        yield process


async def until_bot_is_back(supervisor: int, old: int, person: Person) -> None:
    """Wait until another bot process is connected: it is shown as online again."""
    async with asyncio.timeout(30):
        while children(supervisor).get("bot") in (None, old) or not bot_is_online(person):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def bot_is_online(person: Person) -> bool:
    states = [d["status"] for name, d in person.events if name == "PRESENCE_UPDATE"]
    return states[-1:] == ["online"] and "offline" in states


def test_a_taken_port_is_told_in_one_sentence() -> None:
    async def two_at_once(folder: Path) -> subprocess.CompletedProcess[str]:
        async with Playground(port=0) as playground:
            port = playground.base_url.rpartition(":")[2]
            env = clean_environment(PUNCHLINE_PLAYGROUND__PORT=port)
            return await asyncio.to_thread(punchline, "run", cwd=folder, env=env)

    with short_folder() as folder:
        ended = asyncio.run(two_at_once(folder))
    assert ended.returncode == 1
    assert "already in use" in ended.stderr
    assert "PUNCHLINE_PLAYGROUND__PORT=" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_service_gets_no_token_and_the_bot_gets_its_own() -> None:
    environ = {"DISCORD_TOKEN": "secret", "DISCORD_TOKEN_FILE": "f", "PATH": "/bin"}
    assert service_program(environ).env == {"PATH": "/bin"}
    assert bot_program(environ, None).env == environ


async def test_in_the_playground_the_bot_logs_in_with_the_playgrounds_token() -> None:
    async with Playground(port=0) as playground:
        program = bot_program({"DISCORD_TOKEN_FILE": "f", "PATH": "/bin"}, playground)
        assert program.env == {"DISCORD_TOKEN": playground.bot_token, "PATH": "/bin"}
        assert program.argv[-2:] == ("--playground", playground.base_url)
        assert playground.bot_token not in " ".join(program.argv), "command lines are public"
