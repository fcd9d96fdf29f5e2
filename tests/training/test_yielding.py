"""A training run steps aside while people are being answered, and is not held up for ever."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from model_service.training.yielding import Courtesy, Sign, showing

STEP_S = 0.05


class Interrupted(Exception):
    pass


def nothing() -> None:
    """Check nothing."""


def rested_s(courtesy: Courtesy) -> float:
    """Take a step, and return how long the run rests after it."""
    courtesy()
    time.sleep(STEP_S)
    began = time.monotonic()
    courtesy()
    return time.monotonic() - began


def test_it_rests_in_proportion_to_its_step_while_the_service_is_busy(tmp_path: Path) -> None:
    sign = Sign(tmp_path)
    sign.show(True)
    assert rested_s(Courtesy(tmp_path, 6.0, nothing)) >= 6 * STEP_S
    assert rested_s(Courtesy(tmp_path, 2.0, nothing)) >= 2 * STEP_S
    sign.close()


def test_it_does_not_rest_when_nobody_is_answered_or_when_it_is_told_not_to(tmp_path: Path) -> None:
    sign = Sign(tmp_path)
    assert rested_s(Courtesy(tmp_path, 100.0, nothing)) < 50 * STEP_S
    sign.show(True)
    assert rested_s(Courtesy(tmp_path, 0.0, nothing)) < STEP_S
    sign.close()


def test_it_goes_on_as_soon_as_the_service_has_nothing_to_do(tmp_path: Path) -> None:
    sign = Sign(tmp_path)
    sign.show(True)
    threading.Timer(0.3, sign.close).start()
    assert rested_s(Courtesy(tmp_path, 100.0, nothing)) < 50 * STEP_S


def test_a_run_that_rests_hears_at_once_that_it_is_to_stop(tmp_path: Path) -> None:
    sign = Sign(tmp_path)
    sign.show(True)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Interrupted

    courtesy = Courtesy(tmp_path, 100.0, check)
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Interrupted):
        rested_s(courtesy)
    sign.close()


def test_a_job_without_a_sign_does_not_rest(tmp_path: Path) -> None:
    assert rested_s(Courtesy(tmp_path, 100.0, nothing)) < 50 * STEP_S


async def test_the_sign_follows_the_service(tmp_path: Path) -> None:
    asked = asyncio.Event()

    def busy() -> bool:
        asked.set()
        return True

    async with showing(tmp_path, busy), asyncio.timeout(20):
        await asked.wait()
        assert (tmp_path / "busy").read_bytes() == b"\1"
    assert (tmp_path / "busy").read_bytes() == b"\0", "a service that is gone is not busy"
