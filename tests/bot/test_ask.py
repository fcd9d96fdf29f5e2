"""`punchline ask` against a scripted service: what it prints where."""

from pathlib import Path

import pytest

from bot.ask import Question, answer
from bot.config import Settings
from model_service.config import ServiceSettings
from tests.support.fake_service import Fail, FakeService, Loading


def settings(service: FakeService, home: Path) -> Settings:
    return Settings(home=home, service=ServiceSettings(socket=service.socket_path))


async def test_how_far_the_model_is_loaded_goes_to_stderr_and_the_answer_to_stdout(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = [*(Loading("gpt2-xl", percent) for percent in range(30)), " Why", " not?"]
    assert await answer(settings(service, tmp_path), Question("tell me a joke")) == 0
    out, err = capsys.readouterr()
    assert out == "Why not?\n"
    lines = err.splitlines()
    assert lines[0].startswith("Loading gpt2-xl … ")
    assert 1 <= len(lines) <= 3, "a line every tenth"


async def test_a_model_that_cannot_be_loaded_is_one_sentence_on_stderr(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = [Fail("There is no room for the model 'gpt2-xl' now: it needs 3.0 GiB.", "no_room")]
    assert await answer(settings(service, tmp_path), Question("tell me a joke")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("There is no room for the model 'gpt2-xl' now: it needs 3.0 GiB.")
