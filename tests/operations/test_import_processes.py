"""`punchline import` as a process: killed and run again, beside a bot that writes, in little memory, from the hub."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bot.importing import BATCH
from bot.store import GLOBAL, Store
from tests.operations.builders import clean_environment, punchline
from tests.operations.import_files import TEXTS, Shell, many, numbered, separated
from tests.support.fake_hub import fake_hub

GUILD = 1001
PEAK = """
import sys
from bot.cli import app
try:
    app(["import", *sys.argv[1:]])
except SystemExit as ended:
    assert not ended.code, ended.code
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]  # ru_maxrss would begin at pytest's
print("peak KiB", peak.split()[1])
"""


@asynccontextmanager
async def importing(folder: Path, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `punchline import …` beside the test."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", "import", *argv, cwd=folder, env=clean_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def has_begun(store: Store) -> None:
    async with asyncio.timeout(60):
        while not (await store.jokes.count(GLOBAL)).total:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_stopped_import_leaves_whole_batches_and_goes_on_when_run_again(
    tmp_path: Path, how: signal.Signals
) -> None:
    total = 20_500
    many(tmp_path / "j.csv", total)
    (tmp_path / "var").mkdir()
    async with await Store.open(tmp_path / "var" / "punchline.db") as store:
        async with importing(tmp_path, "j.csv") as process:
            await has_begun(store)
            process.send_signal(how)
            out, err = await process.communicate()
        kept = (await store.jokes.count(GLOBAL)).total
        assert 0 < kept < total
        assert kept % BATCH == 0
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert f"    {kept:,}  new".replace("  ", " ") in out.decode().replace("  ", " ")
            assert f"Stopped. The {kept:,} new jokes above are kept. Run it again to go on" in err.decode()
        ended = await asyncio.to_thread(punchline, "import", "j.csv", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert f"{total - kept:,}  new\n" in ended.stdout
        assert f"{kept:,} here already" in ended.stdout
        assert (await store.jokes.count(GLOBAL)).total == total


async def test_a_bot_beside_an_import_goes_on_writing_and_reading(tmp_path: Path) -> None:
    total = 12_000
    many(tmp_path / "j.csv", total)
    (tmp_path / "var").mkdir()
    longest, written = 0.0, 0
    async with await Store.open(tmp_path / "var" / "punchline.db") as store:
        async with importing(tmp_path, "j.csv") as process:
            await has_begun(store)
            while process.returncode is None:
                began = time.monotonic()
                await store.jokes.add(GUILD, 11, f"A joke of the bot's people, number {written}", "modal", 1)
                longest = max(longest, time.monotonic() - began)
                written += 1
                assert (await store.jokes.count(GUILD)).total == written
                await asyncio.sleep(0.005)
            assert await process.wait() == 0
        assert written > 0
        assert (await store.jokes.count(GUILD)).total == written
        assert (await store.jokes.count(GLOBAL)).total == total
    assert longest < 5, "SQLite gives up waiting after 5 seconds"


def test_a_230_000_row_import_stays_far_under_1_gb(tmp_path: Path) -> None:
    """Measured at two sizes: what a row adds, times 230,000, and the rest."""
    peaks = {}
    for count in (4_000, 24_000):
        many(tmp_path / f"{count}.csv", count)
        env = clean_environment(PUNCHLINE_HOME=f"home-{count}")
        ended = subprocess.run(
            [sys.executable, "-c", PEAK, f"{count}.csv", "--licence", "MIT"],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=80,
        )  # fmt: skip
        assert f"{count:,}  new" in ended.stdout, ended.stderr
        peaks[count] = int(ended.stdout.rpartition("peak KiB ")[2]) * 1024
    per_row = (peaks[24_000] - peaks[4_000]) / 20_000
    expected = peaks[4_000] + per_row * 230_000
    assert expected < 500 * 2**20, f"{per_row:.0f} bytes a row, {expected / 2**20:.0f} MiB for 230,000"


def test_a_terminal_sees_a_bar_with_counts_while_it_runs(tmp_path: Path) -> None:
    many(tmp_path / "j.csv", 6_000)
    terminal, inside = os.openpty()
    try:
        env = clean_environment(TERM="xterm", COLUMNS="100")
        argv = [sys.executable, "-m", "bot", "import", "j.csv", "--dry-run"]
        with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=inside) as process:
            os.close(inside)
            shown = "".join(iter(lambda: read_terminal(terminal), ""))
            out, _ = process.communicate(timeout=60)
    finally:
        os.close(terminal)
    assert re.search(r"[\d,]+ rows, [\d,]+ new\D.*\d+ %", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown))
    assert b"6,000 rows read" in out
    assert b"\x1b" not in out


def read_terminal(terminal: int) -> str:
    """What a terminal shows next; nothing when its last program has ended."""
    try:
        return os.read(terminal, 65_536).decode()
    except OSError:
        return ""


def test_a_full_disk_stops_with_a_sentence_and_what_is_in_stays(tmp_path: Path) -> None:
    many(tmp_path / "j.csv", 12_000)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))"
    code = f"{limit}; from bot.cli import app; app()"
    argv = [sys.executable, "-c", code, "import", "j.csv"]
    ended = subprocess.run(argv, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=80)
    assert ended.returncode == 1
    assert re.match(
        r"The collection at \S+/var cannot be used: (disk I/O error|database or disk is full)\.", ended.stderr
    )
    assert "Traceback" not in ended.stderr
    kept = int(re.search(r"The ([\d,]+) new jokes above are kept. Run it again", ended.stderr)[1].replace(",", ""))  # type: ignore[index]
    again = punchline("import", "j.csv", cwd=tmp_path)
    assert again.returncode == 0
    assert f"{kept:,} here already" in again.stdout
    assert f"{12_000 - kept:,}  new" in again.stdout


def test_a_data_set_of_the_hub_comes_through_the_library_as_a_stream(tmp_path: Path) -> None:
    files = {
        "README.md": b"---\nlicense: cc0-1.0\n---\n",
        "data/train.csv": separated(numbered([*TEXTS, TEXTS[0], "x"], "Joke")).encode(),
    }
    with fake_hub("owner/jokes", files, "cc0-1.0") as hub:
        env = clean_environment(HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "hf"))
        ended = punchline("import", "hf:owner/jokes", cwd=tmp_path, env=env)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "owner/jokes, column Joke: 6 rows read\n        4  new\n        1  duplicates: 1 within" in ended.stdout
        assert "kept as “cc0-1.0”" in ended.stdout
        assert not list((tmp_path / "hf").rglob("*.csv")), "nothing is downloaded whole"
        wrong = punchline("import", "hf:owner/jokes", "--split", "test", "--dry-run", cwd=tmp_path, env=env)
    sentence = "The data set owner/jokes cannot be read: Bad split: test. Available splits: ['train'].\n"
    assert (wrong.returncode, wrong.stderr) == (1, sentence)


def test_a_data_set_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    env = clean_environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    ended = punchline("import", "hf:nobody/nothing", "--dry-run", cwd=tmp_path, env=env)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("The data set nobody/nothing cannot be read: ")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "var").exists()


def test_a_hub_that_cannot_be_reached_is_said_without_knocking_for_half_a_minute(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # nobody listens there once it is closed
    env = clean_environment(HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HOME=str(tmp_path / "hf"))
    began = time.monotonic()
    ended = punchline("import", "hf:owner/jokes", cwd=tmp_path, env=env)
    assert time.monotonic() - began < 15, "starting takes about two seconds; the library's own retries 23 more"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("The data set owner/jokes cannot be read: the hub cannot be reached (")
    assert len(ended.stderr.splitlines()) == 1


def test_what_is_not_installed_is_named_with_the_way_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(tmp_path, capsys)
    (tmp_path / "j.parquet").write_bytes(b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    for source, library in ((tmp_path / "j.parquet", "pyarrow"), ("hf:owner/jokes", "datasets")):
        ended = shell.load(source)
        assert ended.code == 1
        assert library in ended.err
        assert "pip install 'punchline[service]'" in ended.err
    assert "names no data set" in shell.load("hf:../etc/passwd").err
    assert os.listdir(tmp_path) == ["j.parquet"]
