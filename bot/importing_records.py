"""Rows of CSV, TSV and JSONL, one at a time: what a row holds, or what is broken about it.

Nothing is guessed and nothing is cut: a row with a column too many is a broken row, not a shorter joke. What makes the
rest of a file unreadable (another encoding, a quotation mark that never closes) is a BadSource with the line's number.

BadInput (bot.errors)
└── BadSource         cannot be read; the sentence says why
    ├── NotDecoded    a line is not text in the encoding that was named
    └── BadColumn     the column with the jokes must be named, or is not there
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, BinaryIO

from bot.errors import BadInput

MAX_LINE_BYTES = 2**20
MAX_COLUMNS = 200
NOT_DECODED = "not text in the file's encoding"
NOT_AN_OBJECT = "a line that is not a JSON object"
BROKEN_QUOTES = "quotation marks that do not match"
SEPARATORS = {"csv": ",;\t", "tsv": "\t"}
ALONE = "\x1f"  # separates the columns of a file that has one: nothing


class BadSource(BadInput):
    """A source cannot be read; `sentence` says why, `option` which option of the terminal would help."""

    def __init__(self, sentence: str, option: str = "") -> None:
        super().__init__(f"{sentence} {option}".strip())
        self.sentence = sentence


class BadColumn(BadSource):
    """The column that holds the jokes is not named, or not there."""


class NotDecoded(BadSource):
    """A line is not text in the encoding that was named."""

    def __init__(self, name: str, line: int, encoding: str) -> None:
        super().__init__(
            f"Line {line:,} of {name} is not {encoding.removesuffix('-sig').upper()} text.",
            "If the whole file has another encoding, say which (--encoding cp1252 is common);"
            " --skip-broken leaves such lines out.",
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A row as it came. `values` by column; `broken` says why there are none. `line` counts from 1."""

    line: int
    values: dict[str, Any]
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How to read a text file. `encoding` None: UTF-8, or UTF-16 where the file begins by saying so."""

    encoding: str | None = None
    skip_broken: bool = False
    has_header: bool = True
    has_quotes: bool = True  # False: quotation marks are part of the texts


class TextTable:
    """A CSV, TSV or JSONL file, read twice: once to see that all of it can be read and to count, then for its rows."""

    def __init__(self, name: str, kind: str, open_bytes: Callable[[], BinaryIO], options: TextOptions) -> None:
        self.name = name
        self._kind, self._open, self._options = kind, open_bytes, options
        self.columns: list[str] = []
        seen: dict[str, None] = {}
        num_rows, broken = 0, None
        for record in self.records(()):
            num_rows += 1
            broken = broken or (record if record.broken else None)
            if kind == "jsonl" and len(seen) < MAX_COLUMNS:
                seen.update(dict.fromkeys(record.values))
        self.total: int | None = num_rows
        self.columns = self.columns or list(seen)
        if broken and not self.columns:
            raise BadSource(f"No row of {name} can be read. Line {broken.line:,}: {broken.broken}.")

    def records(self, columns: Sequence[str]) -> Iterator[Record]:
        """Yield every row, with all of its columns. Raises BadSource."""
        with self._open() as stream:
            lines = _lines(self.name, stream, self._options)
            yield from self._json(lines) if self._kind == "jsonl" else self._table(lines)

    def _json(self, lines: Iterator[str]) -> Iterator[Record]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            is_object = isinstance(value, dict)
            yield Record(number, value if is_object else {}, None if is_object else NOT_AN_OBJECT)

    def _table(self, lines: Iterator[str]) -> Iterator[Record]:
        first = next(lines, "")
        separator = max(SEPARATORS[self._kind], key=first.count)
        reader = csv.reader(
            _with_first(first, lines),
            delimiter=separator if separator in first else ALONE,
            quoting=csv.QUOTE_MINIMAL if self._options.has_quotes else csv.QUOTE_NONE,
            strict=True,
        )
        columns: list[str] = []
        for line, row in self._rows(reader):
            if row is None:
                yield Record(line, {}, BROKEN_QUOTES)
                continue
            if not columns:
                columns = self.columns = _named(row) if self._options.has_header else _numbered(row)
                if self._options.has_header:
                    continue
            if len(row) == len(columns):
                yield Record(line, dict(zip(columns, row, strict=True)))
            else:
                yield Record(line, {}, f"a row that has not {len(columns)} columns, as the first line has")

    def _rows(self, reader: Any) -> Iterator[tuple[int, list[str] | None]]:
        """Yield (line it begins in, row) for all that are not empty; None for a row with broken quotation marks."""
        while True:
            line, row = reader.line_num + 1, None
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._refuse(str(error), line)
            if row != []:
                yield line, row

    def _refuse(self, error: str, line: int) -> None:
        """Raise BadSource for what makes the rest of the file unreadable."""
        if "unexpected end" in error or "field limit" in error:
            raise BadSource(
                f"A quotation mark that opens in line {line:,} of {self.name} never closes. Write quotation marks"
                ' inside a text twice ("").',
                "If all of them are parts of the texts: --no-quotes.",
            )
        if "new-line character" in error:
            raise BadSource(f"{self.name} has the line ends of old Macs. Save it with those of Unix or Windows.")


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _named(header: Sequence[str]) -> list[str]:
    """Name the columns as the header does; names that are missing or come twice get their number."""
    names: list[str] = []
    for number, name in enumerate((name.strip() for name in header), start=1):
        names.append(name if name and name not in names else f"{name or 'column'} {number}")
    return names


def _numbered(row: Sequence[str]) -> list[str]:
    return [str(number) for number in range(1, len(row) + 1)]


def _lines(name: str, stream: BinaryIO, options: TextOptions) -> Iterator[str]:
    """Yield the lines of a file with their ends."""
    is_wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    stream.seek(0)
    encoding = options.encoding or ("utf-16" if is_wide else "utf-8")
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise BadSource(f"There is no encoding called {encoding!a}. Common ones: utf-8, cp1252, utf-16.") from None
    if codec.startswith(("utf-16", "utf-32")):  # a line end is more than one byte there
        return _wide_lines(name, stream, encoding)
    return _byte_lines(name, stream, "utf-8-sig" if codec == "utf-8" else encoding, options.skip_broken)


def _byte_lines(name: str, stream: BinaryIO, encoding: str, skip_broken: bool) -> Iterator[str]:
    errors = "surrogateescape" if skip_broken else "strict"
    for number in count(1):
        raw = stream.readline(MAX_LINE_BYTES + 1)
        if not raw:
            return
        if len(raw) > MAX_LINE_BYTES:
            raise BadSource(f"Line {number:,} of {name} is over 1 MiB long: that is no table of jokes.")
        try:
            yield raw.decode(encoding, errors)
        except UnicodeDecodeError as error:
            raise NotDecoded(name, number, encoding) from error
        encoding = encoding.removesuffix("-sig")


def _wide_lines(name: str, stream: BinaryIO, encoding: str) -> Iterator[str]:
    with io.TextIOWrapper(stream, encoding, newline="") as text:
        try:
            yield from text
        except UnicodeError as error:
            raise BadSource(f"{name} is not {encoding.upper()} text all the way through.") from error
