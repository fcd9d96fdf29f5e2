"""Keeping children alive, with real child processes that live for milliseconds."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bot.processes import ChildLog, Keeper, Limits, Program, keep_running

QUICK = Limits(first_wait_s=0.05, longest_wait_s=0.1, healthy_s=60, stop_s=5)


class Told:
    """Collects what a person would see, and lets a test wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    async def until(self, seen: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(15):
            while not seen(self.lines):
                self._news.clear()
                await self._news.wait()


def keeper(tmp_path: Path, told: Told, code: str, limits: Limits = QUICK, **env: str) -> Keeper:
    program = Program("child", (sys.executable, "-S", "-c", code), {"PATH": os.environ["PATH"], **env})
    return Keeper(program, ChildLog(tmp_path / "logs" / "child.log", told, all_lines=False), told, limits)


async def test_a_dead_child_is_started_again_with_growing_waits(tmp_path: Path) -> None:
    told, stop = Told(), asyncio.Event()
    code = "import sys; print('up', flush=True); sys.exit(3)"
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, code)], stop, asyncio.Event()))
    await told.until(lambda lines: lines.count("up") == 4)
    stop.set()
    assert await running == 0
    waits = [line.split("again in ")[1].split(" s")[0] for line in told.lines if "ended with exit code 3" in line]
    assert waits[:3] == ["0.05", "0.1", "0.1"]


async def test_a_child_that_lived_long_enough_starts_over_with_the_short_wait(tmp_path: Path) -> None:
    told, stop = Told(), asyncio.Event()
    limits = Limits(first_wait_s=0.05, longest_wait_s=1, healthy_s=0.001, stop_s=5)
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, "", limits)], stop, asyncio.Event()))
    await told.until(lambda lines: len(lines) >= 3)
    stop.set()
    assert await running == 0
    assert all("again in 0.05 s" in line for line in told.lines)


async def test_a_killed_child_is_named_by_its_signal(tmp_path: Path) -> None:
    told, stop = Told(), asyncio.Event()
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, code)], stop, asyncio.Event()))
    await told.until(lambda lines: bool(lines))
    stop.set()
    await running
    assert told.lines[0].startswith("The child was ended by SIGKILL. Starting it again in 0.05 s.")


async def test_a_child_that_refuses_stops_everything_with_its_sentence(tmp_path: Path) -> None:
    told = Told()
    refuses = "import sys; sys.stderr.write('bot.prefix: is missing\\n'); sys.exit(2)"
    lives = keeper(tmp_path / "other", told, "import time; time.sleep(60)")
    async with asyncio.timeout(10):
        code = await keep_running([keeper(tmp_path, told, refuses), lives], asyncio.Event(), asyncio.Event())
    assert code == 2
    assert told.lines == ["bot.prefix: is missing"]


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


async def test_a_child_that_ignores_sigterm_is_killed_after_the_limit(tmp_path: Path) -> None:
    told, stop = Told(), asyncio.Event()
    limits = Limits(stop_s=0.2)
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, STUBBORN, limits)], stop, asyncio.Event()))
    await told.until(lambda lines: "deaf" in lines)
    stop.set()
    async with asyncio.timeout(5):
        assert await running == 0
    assert "The child did not stop within 0.2 s; killing it." in told.lines


async def test_a_second_signal_does_not_wait_for_the_limit(tmp_path: Path) -> None:
    told, stop, kill = Told(), asyncio.Event(), asyncio.Event()
    limits = Limits(stop_s=60)
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, STUBBORN, limits)], stop, kill))
    await told.until(lambda lines: "deaf" in lines)
    stop.set()
    kill.set()
    async with asyncio.timeout(5):
        assert await running == 0


async def test_what_a_dead_child_left_behind_is_ended_too(tmp_path: Path) -> None:
    told, stop = Told(), asyncio.Event()
    code = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True); "
        "sys.exit(1)"
    )
    limits = Limits(first_wait_s=30, stop_s=5)
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, code, limits)], stop, asyncio.Event()))
    await told.until(lambda lines: len(lines) == 2)
    await asyncio.to_thread(until_gone, int(told.lines[0]))
    stop.set()
    async with asyncio.timeout(5):
        await running


async def test_the_log_keeps_everything_and_the_terminal_shows_what_matters(tmp_path: Path) -> None:
    told, stop = Told(), asyncio.Event()
    code = (
        "print('2026-01-01 00:00:00 INFO a: quiet'); print('2026-01-01 00:00:00 WARNING a: loud');"
        "print('Traceback'); print('done', end='', flush=True); import time; time.sleep(60)"
    )
    running = asyncio.create_task(keep_running([keeper(tmp_path, told, code)], stop, asyncio.Event()))
    await told.until(lambda lines: len(lines) >= 2)
    stop.set()
    await running
    assert told.lines == ["2026-01-01 00:00:00 WARNING a: loud", "Traceback", "done"]
    assert "INFO a: quiet" in (tmp_path / "logs" / "child.log").read_text()


def test_a_full_log_moves_aside(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "child.log", lambda line: None, all_lines=False, limit_bytes=100)
    for _ in range(15):
        log.write(b"ten bytes\n")
    log.close()
    assert (tmp_path / "child.log.1").stat().st_size == 110
    assert (tmp_path / "child.log").stat().st_size == 40


PARENT = """
import asyncio, sys
from pathlib import Path
from bot.processes import ChildLog, Keeper, Limits, Program, keep_running
child = Program("child", (sys.executable, "-c", '''
import os, time
from model_service.lifeline import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
'''), {})
def show(line): print(line, flush=True)
keeper = Keeper(child, ChildLog(Path(sys.argv[1]) / "child.log", show, all_lines=True), show, Limits())
asyncio.run(keep_running([keeper], asyncio.Event(), asyncio.Event()))
"""


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
    until_gone(child)


def until_gone(pid: int) -> None:
    limit = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < limit, f"process {pid} outlived its parent"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie that nobody collects does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
