"""Files to import, of every kind, and the import itself in this process."""

import asyncio
import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.config import Settings
from bot.exporting import export_jokes
from bot.importing_command import Request, import_jokes
from bot.store import GLOBAL, Joke, Store

Row = Sequence[str]

TEXTS = [
    "Why did the fern apply for a loan? It wanted to branch out.",
    'My clock, when asked, said: "I have my hands full."',
    "Two lines walk into a bar.\nThe third one is a ruler.",
    "Der Käse sagte: „Ich bin löchrig.“ 🧀",
]


def separated(rows: Iterable[Row], separator: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(rows)
    return out.getvalue()


def numbered(texts: Sequence[str], column: str = "joke") -> list[Row]:
    return [("id", column), *((str(number), text) for number, text in enumerate(texts, start=1))]


def lines(texts: Sequence[str], column: str = "joke") -> str:
    return "".join(json.dumps({"id": number, column: text}) + "\n" for number, text in enumerate(texts, start=1))


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    raw = content.encode(encoding)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def many(path: Path, count: int) -> Path:
    """A CSV of that many different jokes."""
    texts = (
        f"Joke number {n}: a duck asks for {n * 7919 % 100_003} crackers, please, with honey." for n in range(count)
    )
    return write(path, separated([("joke",), *((text,) for text in texts)]))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Shell:
    """Runs `import` and `export` in this process, on a home folder of their own."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.settings = Settings(home=folder / "home")
        self._capture = capture

    @property
    def database(self) -> Path:
        return self.settings.home / "punchline.db"

    def load(self, source: Path | str, **asked: object) -> Ended:
        """Import a source."""
        code = import_jokes(self.settings, Request(str(source), **asked))  # type: ignore[arg-type]
        return Ended(code, *self._capture.readouterr())

    def save(self, target: Path, guild: int | None = None) -> Ended:
        """Export to a file."""
        code = export_jokes(self.settings, target, guild)
        return Ended(code, *self._capture.readouterr())

    def kept(self, guild: int = GLOBAL) -> list[Joke]:
        """All jokes that are there, oldest first."""

        async def read() -> list[Joke]:
            async with await Store.open(self.database) as store:
                return (await store.jokes.latest(guild, 10**6))[::-1]

        return asyncio.run(read())

    def texts(self, guild: int = GLOBAL) -> list[str]:
        return [joke.text for joke in self.kept(guild)]
