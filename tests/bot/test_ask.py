"""`punchline ask` against a scripted service: what it prints where."""

import asyncio
import io
import sys
from pathlib import Path

import pytest

from bot.ask import Question, answer
from bot.config import Settings
from model_service.config import ServiceSettings
from tests.support.fake_service import Fail, FakeService, Loading, Until


def settings(service: FakeService, home: Path) -> Settings:
    return Settings(home=home, service=ServiceSettings(socket=service.socket_path))


class Told(io.StringIO):
    """A stderr that lets the model go on loading once something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def write(self, text: str) -> int:
        self.event.set()
        return super().write(text)


async def test_how_far_the_model_is_loaded_goes_to_stderr_and_the_answer_to_stdout(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    monkeypatch.setattr(sys, "stderr", told)
    rest = [Loading("gpt2-xl", percent) for percent in range(1, 30)]
    service.answer = [Loading("gpt2-xl", 0), Until(told.event), *rest, " Why", " not?"]
    assert await answer(settings(service, tmp_path), Question("tell me a joke")) == 0
    assert capsys.readouterr().out == "Why not?\n"
    lines = told.getvalue().splitlines()
    assert lines[0] == "Loading gpt2-xl … 0 %"
    assert len(lines) <= 3, "a line every tenth"


async def test_a_model_that_cannot_be_loaded_is_one_sentence_on_stderr(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = [Fail("There is no room for the model 'gpt2-xl' now: it needs 3.0 GiB.", "no_room")]
    assert await answer(settings(service, tmp_path), Question("tell me a joke")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("There is no room for the model 'gpt2-xl' now: it needs 3.0 GiB.")
