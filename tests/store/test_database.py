import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bot.store import CannotOpen, Store, StoreFailed, database
from bot.store.errors import InUse, NewerDatabase, NotWritable, Unreadable
from tests.store.builders import ANN, GUILD, add, open_store, without_privileges

CHILD = """
import asyncio, sys
from pathlib import Path
from bot.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]))
    await store.jokes.add(1001, 11, "Kept, whatever happens next.", "modal", 1)
    print("committed", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


async def opened_and_closed(path: Path) -> None:
    """Open, which is to fail; an open connection's thread would keep a failing test run from ending."""
    async with await Store.open(path):
        pass


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def running(store: Store, num_writes: int) -> None:
    """Return when so many writes have begun and none can have ended."""
    for _ in range(100):
        if len(store._database._writes) == num_writes:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{len(store._database._writes)} writes are running, not {num_writes}")


async def test_a_new_database_gets_every_migration_and_reopening_keeps_what_is_in_it(tmp_path: Path) -> None:
    async with open_store(tmp_path / "new" / "folder") as store:
        await add(store, "First joke")
    path = tmp_path / "new" / "folder" / "punchline.db"
    assert read(path, "PRAGMA user_version") == [(len(database.migrations()),)]
    schema = read(path, "SELECT sql FROM sqlite_schema ORDER BY name")
    for _ in range(2):
        async with open_store(path.parent) as store:
            assert [joke.text for joke in await store.jokes.latest(GUILD, 5)] == ["First joke"]
    assert read(path, "SELECT sql FROM sqlite_schema ORDER BY name") == schema


async def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await add(store, "A private joke")
        modes = modes_in(tmp_path)
    assert modes == {"punchline.db": 0o600, "punchline.db-wal": 0o600, "punchline.db-shm": 0o600}


async def test_both_connections_run_with_the_promised_pragmas(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only")
        found = []
        for connection in (store._database._writer, store._database._reader):
            rows = [next(iter(await connection.execute_fetchall(f"PRAGMA {pragma}"))) for pragma in pragmas]
            found.append([row[0] for row in rows])
    assert found == [["wal", 2, 1, 5000, 0], ["wal", 2, 1, 5000, 1]]  # synchronous 2 is FULL


async def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async with open_store(tmp_path):
        pass
    path = tmp_path / "punchline.db"
    read(path, "PRAGMA user_version = 7")
    with pytest.raises(NewerDatabase, match=r"newer Punchline \(schema 7; this one knows up to \d\). Update Punchline"):
        await opened_and_closed(path)
    assert read(path, "PRAGMA user_version") == [(7,)]


async def test_a_failing_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(tmp_path) as store:
        await add(store, "Still here")
    known = database.migrations()
    broken = "CREATE TABLE half (a);\nDROP TABLE jokes;\nCREATE TABLE half (a);\n"
    with monkeypatch.context() as patch:
        patch.setattr(database, "migrations", lambda: [*known, broken])
        with pytest.raises(CannotOpen, match="half already exists"):
            await opened_and_closed(tmp_path / "punchline.db")
    async with open_store(tmp_path) as store:
        assert (await store.jokes.count(GUILD)).total == 1


async def test_many_openings_of_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        stores = await asyncio.gather(*(Store.open(tmp_path / "punchline.db") for _ in range(6)))
        await asyncio.gather(*(add(store, f"Joke number {n}") for n, store in enumerate(stores)))
        assert (await stores[0].jokes.count(GUILD)).total == 6
        for store in stores:
            await store.close()


async def test_opening_waits_for_a_program_that_is_just_finishing_with_the_file(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "punchline.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # not yet in WAL mode, where SQLite itself does not wait
        asyncio.get_running_loop().call_later(0.1, other.execute, "ROLLBACK")
        async with open_store(tmp_path) as store:
            assert not other.in_transaction
            await add(store, "Worth the wait")


@pytest.mark.parametrize("content", [b"Dear diary, " * 500, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "punchline.db"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=r"Cannot read the database .*punchline\.db: .*Put a backup in its place"):
        await opened_and_closed(path)
    assert path.read_bytes() == content


async def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.jokes.import_starter(GUILD)
    path = tmp_path / "punchline.db"
    content = bytearray(path.read_bytes())
    content[8192:40960] = bytes(32768)
    path.write_bytes(content)
    with pytest.raises(Unreadable, match="Put a backup in its place"):
        await opened_and_closed(path)


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "punchline.db"
    read(path, "CREATE TABLE recipes (title)")
    with pytest.raises(Unreadable, match="belongs to another program"):
        await opened_and_closed(path)


async def test_a_folder_that_refuses_writing_is_named_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.db").mkdir()
    for path, reason in [("file/punchline.db", "file exists|not a directory"), ("folder.db", "is a directory")]:
        with pytest.raises(NotWritable, match=f"{path}: ({reason}). Give this user write permission"):
            await opened_and_closed(tmp_path / path)
    (tmp_path / "locked").mkdir(mode=0o555)
    with without_privileges(), pytest.raises(NotWritable, match="permission denied"):
        await opened_and_closed(tmp_path / "locked" / "punchline.db")


async def test_a_file_that_may_only_be_read_is_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path):
        pass
    path = tmp_path / "punchline.db"
    path.chmod(0o444)
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(0o755)
    with without_privileges(), pytest.raises(NotWritable, match="permission denied"):
        await opened_and_closed(path)


async def test_a_database_that_another_program_holds_is_refused_after_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path):
        pass
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    path = tmp_path / "punchline.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InUse, match="Another program is holding the database"):
            await opened_and_closed(path)
        other.execute("ROLLBACK")
    async with open_store(tmp_path):
        pass


async def test_a_full_disk_is_a_sentence_and_undoes_the_whole_write(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await add(store, "There before")
        await store._database._writer.execute("PRAGMA max_page_count = 20")
        with pytest.raises(StoreFailed, match=r"could not be used just now \(database or disk is full\)"):
            await store.jokes.import_texts(GUILD, [f"{n} " + "x" * 900 for n in range(200)], "CC0-1.0")
        assert (await store.jokes.count(GUILD)).total == 1
        await store._database._writer.execute("PRAGMA max_page_count = 100000")
        assert (await add(store, "There after")).joke.id > 1


async def test_a_cancelled_caller_leaves_the_write_whole_and_the_store_usable(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        caller = asyncio.create_task(store.jokes.import_texts(GUILD, [f"Joke {n}" for n in range(50)], "CC0-1.0"))
        await running(store, 1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await add(store, "The next one")
        assert (await store.jokes.count(GUILD)).total == 51


async def test_closing_waits_for_running_writes_and_may_be_repeated(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        writes = [asyncio.create_task(add(store, f"Joke {n}")) for n in range(20)]
        await running(store, 20)
        await store.close()
        assert all(not added.duplicate for added in await asyncio.gather(*writes))


def test_a_committed_joke_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "punchline.db"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "committed\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "punchline.db-wal").stat().st_size > 0, "the child closed the database: nothing was tested"

    async def latest() -> list[tuple[str, int | None]]:
        async with open_store(tmp_path) as store:
            return [(joke.text, joke.author_id) for joke in await store.jokes.latest(GUILD, 5)]

    assert asyncio.run(latest()) == [("Kept, whatever happens next.", ANN)]
