"""Logging for a whole process: one line each, and never a token."""

from pathlib import Path

from tests.operations.builders import python

LOG_SOMETHING = """
import logging, warnings
from model_service import logs
logs.configure(verbose={verbose})
log = logging.getLogger("a.b")
log.info("request %s finished", "a1")
log.debug("what people said")
log.warning("logged in with %s", "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs")
warnings.warn("old", stacklevel=1)
"""


def test_a_line_has_time_level_and_name_and_no_token(tmp_path: Path) -> None:
    lines = python("-c", LOG_SOMETHING.format(verbose=False), cwd=tmp_path).stderr.splitlines()
    assert [line.split(" ", 2)[2] for line in lines[:2]] == [
        "INFO a.b: request a1 finished",
        "WARNING a.b: logged in with [token]",
    ]
    assert "WARNING py.warnings: " in lines[2]


def test_peoples_text_is_logged_only_when_asked_for(tmp_path: Path) -> None:
    quiet, verbose = (python("-c", LOG_SOMETHING.format(verbose=v), cwd=tmp_path).stderr for v in (False, True))
    assert "what people said" not in quiet
    assert "DEBUG a.b: what people said" in verbose
