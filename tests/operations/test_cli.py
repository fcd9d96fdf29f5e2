"""The command line: quick, without torch, clear about mistakes."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from bot.ask import Question, printable, request
from bot.cli import app
from bot.config import BotSettings, Settings
from bot.playground import Playground
from tests.operations.builders import (
    clean_environment,
    punchline,
    python,
    running,
    short_folder,
    until_exists,
    without_torch,
    write_tiny_models,
)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Path]:
    with short_folder() as folder:
        write_tiny_models(folder)
        yield folder


@pytest.mark.parametrize("module", ["bot.cli", "bot.run", "bot.ask", "bot.doctor", "model_service.__main__"])
def test_importing_the_commands_loads_no_torch(tmp_path: Path, module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'fastapi'}} & set(sys.modules)))"
    ended = python("-c", code, cwd=tmp_path)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("module", ["bot.cli", "model_service.__main__"])
def test_help_waits_for_no_heavy_module(tmp_path: Path, module: str) -> None:
    heavy = {"torch", "transformers", "fastapi", "discord", "aiohttp", "numpy", "matplotlib", "datasets", "pyarrow"}
    ended = python("-c", f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))", cwd=tmp_path)
    assert ended.stdout == "[]\n"


def test_help_lists_every_command_and_nothing_that_is_not_there(tmp_path: Path) -> None:
    ended = punchline("--help", cwd=tmp_path)
    assert ended.returncode == 0
    names = list(get_command(app).commands)  # type: ignore[attr-defined]
    assert names == ["run", "bot", "serve", "ask", "doctor", "plan", "convert", "import", "export", "train", "bench"]
    assert all(f" {name} " in ended.stdout for name in names)


def test_a_mistyped_command_is_told_the_nearest(tmp_path: Path) -> None:
    ended = punchline("srve", cwd=tmp_path)
    assert ended.returncode == 2
    assert "No such command 'srve'" in ended.stderr
    assert "serve" in ended.stderr.split("srve'")[-1]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("ask",), "Missing argument 'text'"),
        (("ask", "x", "--max-tokens", "0"), "'--max-tokens': Input should be greater than or equal to 1"),
        (("run", "--fast"), "No such option: --fast"),
        (("train", "sing"), "No such command 'sing'"),
        (("bench", "dance"), "No such command 'dance'"),
        (
            ("bench", "decode", "--engines", "vllm"),
            "'vllm' is not one of punchline, llama.cpp, ctranslate2, transformers",
        ),
        (("train", "joke", "--data", "none", "--out", "o"), "'none' does not exist"),
    ],
)
def test_bad_options_get_a_sentence(tmp_path: Path, argv: tuple[str, ...], sentence: str) -> None:
    ended = punchline(*argv, cwd=tmp_path)
    assert ended.returncode == 2
    assert sentence in " ".join(ended.stderr.replace("│", " ").split())


def test_train_shows_the_options_of_its_model(tmp_path: Path) -> None:
    for model, option in (("joke", "--steps"), ("sentiment", "--epochs")):
        ended = punchline("train", model, "--help", cwd=tmp_path)
        assert ended.returncode == 0
        assert option in ended.stdout


def test_the_bot_without_a_token_says_where_it_goes(tmp_path: Path) -> None:
    ended = punchline("bot", cwd=tmp_path)
    sentence = "There is no token. Set DISCORD_TOKEN, or use `punchline run` to try the bot in the playground.\n"
    assert (ended.returncode, ended.stderr) == (2, sentence)


async def test_a_token_that_is_refused_ends_the_bot_with_a_sentence(tmp_path: Path) -> None:
    async with Playground(port=0) as playground:
        env = clean_environment(DISCORD_TOKEN="not-the-token")
        ended = await asyncio.to_thread(punchline, "bot", "--playground", playground.base_url, cwd=tmp_path, env=env)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("Discord refused the token. Copy it again: https://")
    assert "not-the-token" not in ended.stderr


def test_a_discord_that_cannot_be_reached_is_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    env = clean_environment(DISCORD_TOKEN="t")
    ended = punchline("bot", "--playground", "http://127.0.0.1:9", cwd=tmp_path, env=env)
    assert ended.returncode == 1, "so that it is started again"
    assert ended.stderr.splitlines()[-1].startswith("Discord cannot be reached: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["run", "serve", "convert", "train", "bench"])
def test_where_torch_is_missing_the_service_commands_say_how_to_get_it(tmp_path: Path, command: str) -> None:
    ended = punchline(command, cwd=tmp_path, env=clean_environment(**without_torch(tmp_path)))
    sentence = "The model service is not installed here. Install it: pip install 'punchline[service]'\n"
    assert (ended.returncode, ended.stderr) == (2, sentence)


def test_ask_without_a_service_to_ask_or_start_says_so() -> None:
    with short_folder() as folder:
        ended = punchline("ask", "hi", cwd=folder, env=clean_environment(**without_torch(folder)))
        assert ended.returncode == 1
        assert ended.stderr == (
            f"No model service answers at {folder}/var/model.sock. "
            "It is not installed here either: pip install 'punchline[service]'\n"
        )


def test_ask_starts_a_service_for_one_answer_and_ends_it(tiny: Path) -> None:
    ended = punchline("ask", "tell me a joke", "--max-tokens", "30", cwd=tiny)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()
    assert not (tiny / "var" / "model.sock").exists()


def test_ask_doctor_and_health_find_the_running_service(tiny: Path) -> None:
    with running(["-m", "bot", "serve"], tiny, clean_environment()) as service:
        until_exists(tiny / "var" / "model.sock")
        answers = [punchline("ask", "Once", "--max-tokens", "5", "--seed", "1", cwd=tiny) for _ in range(2)]
        assert [(ended.returncode, ended.stderr) for ended in answers] == [(0, "")] * 2  # waits until it is ready
        assert answers[0].stdout == answers[1].stdout
        doctor = punchline("doctor", cwd=tiny)
        assert f"ok       service   ready at {tiny}/var/model.sock" in doctor.stdout
        assert "ok       model     jokes-mini (joke_model): ready" in doctor.stdout
        assert doctor.returncode == 0, doctor.stdout
        missing = punchline("ask", "hi", "--model", "gpt5", cwd=tiny)
        assert (missing.returncode, missing.stdout) == (1, "")
        assert missing.stderr.startswith("There is no model 'gpt5'.")
        assert python("-m", "model_service", "health", cwd=tiny).returncode == 0
        service.terminate()
        assert service.wait(timeout=15) == 0
    assert python("-m", "model_service", "health", cwd=tiny).returncode == 1


def asked(text: str) -> tuple[str, str, int]:
    settings = Settings(bot=BotSettings(joke_model="jokes-mini", complete_model="gpt2"))
    made = request(settings, Question(text))
    return made.model, made.prompt, made.max_tokens


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("tell me a joke", "JOKE:"),
        ("Joke!", "JOKE:"),
        ("a joke about black cats", "JOKE about black cats:"),
        ("Tell me another joke about work.", "JOKE about work:"),
    ],
)
def test_asking_for_a_joke_uses_the_joke_model_and_its_prompt(text: str, prompt: str) -> None:
    assert asked(text) == ("jokes-mini", prompt, 96)


def test_any_other_text_is_continued_as_it_is() -> None:
    assert asked(" No joke: I once ") == ("gpt2", " No joke: I once ", 100)


def test_what_would_steer_the_terminal_is_dropped() -> None:
    assert printable("a\x1b[31mb\x07\r\nc\td\u202e é 😀") == "a[31mb\nc\td é 😀"


def test_the_entry_point_is_the_same_program() -> None:
    script = Path(sys.executable).with_name("punchline").read_text()
    assert "from bot.cli import main" in script
