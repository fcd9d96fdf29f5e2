"""Starting and stopping: the real process against the playground, as `punchline bot` runs it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bot.playground import Playground
from tests.bot.test_commands import ask, words
from tests.support.fake_service import FakeService
from tests.support.people import at_home


def environment(home: Path, token: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PUNCHLINE_", "DISCORD_"))}
    settings = {"PUNCHLINE_HOME": str(home), "PUNCHLINE_BOT__GUILD_READY_TIMEOUT_S": "0.05"}
    return {**kept, **settings, "DISCORD_TOKEN": token, **more}


@asynccontextmanager
async def bot_process(
    playground: Playground, env: dict[str, str], cwd: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = ("-m", "bot", "bot", "--playground", playground.base_url)
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=env, cwd=cwd, **pipes)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def log_until(process: asyncio.subprocess.Process, text: str) -> str:
    """Read the process's log up to the line with this text."""
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(20):
        async for line in process.stdout:
            lines.append(line.decode())
            if text in lines[-1]:
                return "".join(lines)
    raise AssertionError(f"the log ended without {text!r}:\n{''.join(lines)}")


async def test_without_the_message_content_intent_it_connects_again_and_says_so(
    service: FakeService, tmp_path: Path
) -> None:
    async with Playground(port=0) as playground:
        playground.allow_message_content(False)
        env = environment(tmp_path, playground.bot_token, PUNCHLINE_SERVICE__SOCKET=str(service.socket_path))
        async with at_home(playground) as (robin, _), bot_process(playground, env, tmp_path) as process:
            log = await log_until(process, "connected as")
            assert "Privileged Gateway Intents" in log
            await robin.command("joke")
            await robin.wait_for(lambda m: m["content"] == "Why not?")
            mention = f"<@{playground.application_id}>"
            assert "without the message content intent" in words(await ask(robin, f"{mention} about"))
            assert "without the message content intent" in words(await ask(robin, f"{mention} help"))
            robin.channel_id = await robin.open_direct(str(playground.application_id))
            assert (await ask(robin, "!joke"))["content"] == "Why not?"


async def test_sigterm_stops_it_cleanly(service: FakeService, tmp_path: Path) -> None:
    async with Playground(port=0) as playground:
        env = environment(tmp_path, playground.bot_token, PUNCHLINE_SERVICE__SOCKET=str(service.socket_path))
        async with bot_process(playground, env, tmp_path) as process:
            log = await log_until(process, "connected as")
            assert "intent" not in log
            process.send_signal(signal.SIGTERM)
            log = await log_until(process, "disconnected")
            async with asyncio.timeout(10):
                assert await process.wait() == 0
            assert "Traceback" not in log
            assert playground.bot_token not in log


async def test_a_wrong_token_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    async with Playground(port=0) as playground:
        wrong = "bm90.YQ.dG9rZW4"
        async with bot_process(playground, environment(tmp_path, wrong), tmp_path) as process:
            log = await log_until(process, "Discord refused the token.")
            assert "Reset Token" in log.splitlines()[-1]
            assert "Traceback" not in log
            assert wrong not in log
            async with asyncio.timeout(10):
                assert await process.wait() == 2


async def test_a_database_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "punchline.db").write_text("this is not a database, however long one looks at it" * 100)
    async with Playground(port=0) as playground:
        env = environment(tmp_path, playground.bot_token)
        async with bot_process(playground, env, tmp_path) as process:
            log = await log_until(process, "Cannot read the database")
            assert "Traceback" not in log
            async with asyncio.timeout(10):
                assert await process.wait() == 2


def test_the_bot_never_loads_torch() -> None:
    code = "import sys, bot.app, bot.cli; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "set()"
