"""Dockerfile and compose.yaml: linted, and both processes run the way the images run them."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.playground import Playground
from tests.operations.builders import HIDE_TORCH, short_folder
from tests.support.people import at_home
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    """One `FROM … AS name` of a Dockerfile."""

    name: str
    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str | None:
        return next((rest for word, rest in reversed(self.lines) if word == instruction), None)


def stages() -> dict[str, Stage]:
    """Read the Dockerfile; refuses an instruction Docker would not know."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            stage = found[name] = Stage(name, base)
            continue
        assert word in {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}, line
        stage.lines.append((word, rest))
    return found


def lineage(stage: Stage) -> list[tuple[str, str]]:
    """The instructions of a stage with those of its bases before them."""
    base = stages().get(stage.base)
    return [*(lineage(base) if base else []), *stage.lines]


def image_env(name: str) -> dict[str, str]:
    pairs = [pair for word, rest in lineage(stages()[name]) if word == "ENV" for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


@pytest.mark.parametrize("name", ["bot", "service"])
def test_an_image_runs_one_program_as_nobody_special(name: str) -> None:
    stage = stages()[name]
    user = stage.last("USER")
    assert user is not None
    assert int(user.split(":")[0]) >= 1000
    argv = json.loads(stage.last("CMD") or "")  # exec form, so that SIGTERM reaches the program itself
    assert argv[0] == "python"
    health = stage.last("HEALTHCHECK")
    if health is not None:
        json.loads(health.split("CMD ", 1)[1])


def test_stages_build_on_each_other_and_copy_only_what_is_there() -> None:
    known = stages()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for stage in known.values():
        assert stage.base in known or re.fullmatch(r"python:3\.\d+-slim", stage.base)
        for word, rest in stage.lines:
            if word != "COPY":
                continue
            if origin := re.match(r"--from=(\S+) ", rest):
                assert origin[1] in known
                continue
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, f"{source} is kept out by .dockerignore"


def test_the_bots_image_is_built_without_torch() -> None:
    installs = {name: " ".join(rest for word, rest in stage.lines if word == "RUN") for name, stage in stages().items()}
    assert "[service]" in installs["built-service"]
    assert "[service]" not in installs["built-bot"]
    assert all("--constraint constraints.txt" in installs[name] for name in ("built-bot", "built-service"))
    assert "--from=built-bot" in (stages()["bot"].last("COPY") or "")


def test_both_containers_are_locked_down_and_share_only_the_socket() -> None:
    loaded = compose()
    service, bot = (loaded["services"][name] for name in ("service", "bot"))
    for container in (service, bot):
        assert container["build"]["target"] in stages()
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opt"] == ["no-new-privileges:true"]
        assert container["restart"] == "unless-stopped"
        assert int(container["stop_grace_period"].removesuffix("s")) >= 25
    volumes = [{volume.split(":")[0] for volume in container["volumes"]} for container in (service, bot)]
    assert volumes[0] & volumes[1] == {"socket"}
    assert volumes[0] | volumes[1] == set(loaded["volumes"])
    assert "environment" not in service, "the token is the bot's alone"
    socket = Path(image_env("service")["PUNCHLINE_SERVICE__SOCKET"])
    assert all(f"socket:{socket.parent}" in container["volumes"] for container in (service, bot))


@asynccontextmanager
async def container(
    name: str, state: Path, env: Mapping[str, str], *more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an image's command as Docker would: its ENV, its working directory, nothing of ours."""
    argv = json.loads(stages()[name].last("CMD") or "")
    await asyncio.to_thread(state.mkdir)
    kept = {key: value for key, value in image_env(name).items() if key.startswith(("PYTHON", "PUNCHLINE_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv[1:],
        *more,
        cwd=state,
        env={**kept, "PATH": os.defpath, "PUNCHLINE_HOME": str(state), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stopped(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Send SIGTERM, as `docker stop` does; returns exit code and log."""
    process.terminate()
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    return process.returncode, err.decode()


def tiny_models(folder: Path) -> str:
    """Write the models; returns what PUNCHLINE_SERVICE__MODELS says of them."""
    generator, classifier = save_tiny_generator(folder / "g"), save_tiny_classifier(folder / "c")
    return json.dumps(
        [
            {"name": "jokes-mini", "source": str(generator)},
            {"name": "sentiment-mini", "source": str(classifier), "task": "classify"},
        ]
    )


async def test_both_processes_run_as_in_their_images_and_stop_on_sigterm() -> None:
    with short_folder() as folder:
        socket = {"PUNCHLINE_SERVICE__SOCKET": str(folder / "model.sock")}
        hidden = folder / "without"
        hidden.mkdir()
        await asyncio.to_thread((hidden / "sitecustomize.py").write_text, HIDE_TORCH)
        service_env = {**socket, "PUNCHLINE_SERVICE__MODELS": tiny_models(folder), "OMP_NUM_THREADS": "1"}
        async with Playground(port=0) as playground, at_home(playground) as (robin, _):
            bot_env = {
                **socket,
                "DISCORD_TOKEN": playground.bot_token,
                "PUNCHLINE_BOT__JOKE_MAX_TOKENS": "12",
                "PYTHONPATH": str(hidden),
            }
            async with (
                container("service", folder / "s", service_env) as service,
                container("bot", folder / "b", bot_env, "--playground", playground.base_url) as bot,
            ):
                answer = await answered(playground, service_env, folder, robin)
                assert answer["content"]
                await robin.say("!models")
                shown = await robin.wait_for(lambda m: m["attachments"], timeout_s=30)
                assert shown["attachments"][0]["content_type"] == "image/png", "drawn without the service's libraries"
                bot_code, bot_log = await stopped(bot)
                service_code, service_log = await stopped(service)
        assert (bot_code, service_code) == (0, 0), bot_log + service_log
        assert "disconnected from Discord" in bot_log
        assert playground.bot_token not in bot_log
        assert (folder / "b" / "punchline.db").exists()
        assert not (folder / "s" / "punchline.db").exists()


async def answered(playground: Playground, env: Mapping[str, str], folder: Path, robin: Any) -> dict[str, Any]:
    """Wait as Docker's health check does, then ask for a joke."""
    health = json.loads((stages()["service"].last("HEALTHCHECK") or "").split("CMD ", 1)[1])
    async with asyncio.timeout(60):
        while True:
            check = await asyncio.create_subprocess_exec(
                sys.executable, *health[1:], cwd=folder, env={**env, "PUNCHLINE_HOME": str(folder / "s")}
            )
            if await check.wait() == 0 and playground.bot_online:
                break
    await robin.say("!joke")
    found: dict[str, Any] = await robin.wait_for(lambda m: m["author"].get("bot") and m["components"], timeout_s=30)
    return found
