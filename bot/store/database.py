"""One SQLite file: a connection that writes, a connection that reads, numbered migrations.

    write(work) ─▶ lock ─▶ BEGIN IMMEDIATE ─▶ work(connection) ─▶ COMMIT, or ROLLBACK if work raised
    rows(sql)   ─────────────────────────────▶ second connection, read-only, never waits for a writer

A write that has returned is on the disk (WAL, synchronous=FULL). Writes run one after the other, each in a task of its
own that a cancelled caller does not interrupt: a transaction is done or undone, never left open.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite

from bot.store.errors import CannotOpen, InUse, NewerDatabase, NotWritable, StoreFailed, Unreadable

log = logging.getLogger(__name__)

APPLICATION_ID = 0x50554E43  # "PUNC", in the file's header: what `file` and we know our databases by
BUSY_TIMEOUT_MS = 5000  # another process (backup, export) may hold the lock for a moment

T = TypeVar("T")
Row = sqlite3.Row


class Database:
    """An open database; `open` makes one, `close` ends it. Use from one event loop."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()
        self._writes: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file, bring its schema up to date; raises CannotOpen with a sentence."""
        await asyncio.to_thread(_prepare, path)
        connections: list[aiosqlite.Connection] = []
        try:
            for pragma in ("secure_delete = ON", "query_only = ON"):
                connections.append(await aiosqlite.connect(path, isolation_level=None))
                await _configure(connections[-1], path, pragma)
                if len(connections) == 1:
                    await _migrate(connections[0], path)
        except BaseException as error:
            for connection in connections:
                await connection.close()
            if isinstance(error, sqlite3.Error):
                raise _opening_error(path, error) from error
            raise
        return cls(*connections)

    async def close(self) -> None:
        """Let running writes finish, then close both connections. Safe to call twice."""
        if self._writes:
            await asyncio.wait(self._writes)
        await self._reader.close()
        await self._writer.close()

    async def write(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work` in one transaction; what it returns is committed, what it raises undoes it. Raises StoreFailed."""
        task = asyncio.create_task(self._transact(work), name="store-write")
        self._writes.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def empty_log(self) -> None:
        """Move everything out of the write-ahead log and cut it to nothing, so that no deleted text lingers in it."""
        async with self._lock:
            is_busy = await _value(self._writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        if is_busy:
            log.warning("another program is reading the database; deleted text may stay in its log until it stops")

    async def rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        """Return all rows of a query, which sees every finished write. Raises StoreFailed."""
        try:
            return list(await self._reader.execute_fetchall(sql, parameters))
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            raise StoreFailed(str(error)) from error

    async def row(self, sql: str, parameters: dict[str, Any]) -> Row | None:
        """Return the first row of a query, or None. Raises StoreFailed."""
        rows = await self.rows(sql, parameters)
        return rows[0] if rows else None

    async def _transact(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        async with self._lock:
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                result = await work(self._writer)
                await self._writer.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.OperationalError):  # SQLite may have ended it itself
                    await self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                    raise StoreFailed(str(error)) from error
                raise
            return result

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled() and (error := task.exception()):  # read here: its caller may be gone
            log.debug("write undone: %r", error)


def migrations() -> list[str]:
    """Return the SQL of every migration in order; number n brings a database from schema n - 1 to n."""
    scripts = sorted((f for f in files("bot.store").joinpath("migrations").iterdir()), key=lambda f: f.name)
    scripts = [f for f in scripts if f.name.endswith(".sql")]
    assert [int(f.name[:4]) for f in scripts] == list(range(1, len(scripts) + 1)), (
        "migrations are numbered 0001, 0002 …"
    )
    return [f.read_text(encoding="utf-8") for f in scripts]


def _prepare(path: Path) -> None:
    """Make the folder and an empty file that only this user can read (SQLite copies its mode to -wal and -shm)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
        with path.open("r+b"):
            pass
    except OSError as error:
        raise NotWritable(path, (error.strerror or str(error)).lower()) from error


async def _configure(connection: aiosqlite.Connection, path: Path, extra_pragma: str) -> None:
    connection.row_factory = sqlite3.Row
    await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    await _use_wal(connection, path)
    await connection.execute("PRAGMA synchronous = FULL")
    await connection.execute("PRAGMA foreign_keys = ON")
    await connection.execute(f"PRAGMA {extra_pragma}")


async def _use_wal(connection: aiosqlite.Connection, path: Path) -> None:
    """Switch to write-ahead logging, once per file; SQLite's busy timeout does not cover this switch."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            mode = await _value(connection, "PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
    if mode != "wal":
        raise NotWritable(path, f"its disk does not allow write-ahead logging (journal mode {mode})")


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema up to date in one transaction, so that two processes starting together do it once."""
    scripts = migrations()
    await connection.execute("BEGIN IMMEDIATE")
    try:
        version = await _check(connection, path, known=len(scripts))
        for number, script in enumerate(scripts[version:], start=version + 1):
            log.info("database %s: migrating to schema %d", path, number)
            for statement in _statements(script):
                await connection.execute(statement)
            await connection.execute(f"PRAGMA user_version = {number}")
        await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


async def _check(connection: aiosqlite.Connection, path: Path, known: int) -> int:
    """Return the schema's version, or refuse a database that is damaged, newer, or not ours."""
    if (report := await _value(connection, "PRAGMA quick_check(1)")) != "ok":
        raise Unreadable(path, f"it is damaged ({report})")
    is_ours = await _value(connection, "PRAGMA application_id") == APPLICATION_ID
    if not is_ours and await _value(connection, "SELECT count(*) FROM sqlite_schema"):
        raise Unreadable(path, "it belongs to another program")
    version = int(await _value(connection, "PRAGMA user_version"))
    if version > known:
        raise NewerDatabase(path, version, known)
    return version


def _statements(script: str) -> Iterator[str]:
    """Split a script where SQLite says a statement is complete (executescript would commit on its own)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), f"unfinished statement in a migration: {statement}"


async def _value(connection: aiosqlite.Connection, sql: str) -> Any:
    async with connection.execute(sql) as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


def _opening_error(path: Path, error: sqlite3.Error) -> CannotOpen:
    text = str(error)
    if "readonly" in text or "unable to open" in text or "full" in text:
        return NotWritable(path, text)
    if "locked" in text:
        return InUse(path)
    return Unreadable(path, text)
