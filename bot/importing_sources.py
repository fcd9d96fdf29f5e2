"""Opens what people import from: a file on this machine, packed or not, or a data set of the Hugging Face hub.

    jokes.csv  jokes.tsv.gz  jokes.jsonl  ─▶ TextTable   (importing_records.py)
    jokes.parquet                         ─▶ ParquetFile (needs pyarrow)
    hf:owner/name                         ─▶ HubRows     (importing_hub.py: a process with `datasets`)

All of them are a `Source`: columns, the number of rows where it is known, and the rows one by one.
"""

import contextlib
import difflib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from bot.importing_records import BadSource, Record, TextOptions, TextTable

KINDS = {"csv": "csv", "tsv": "tsv", "tab": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
FORMATS = "CSV, TSV, JSONL or Parquet, also packed as .gz, or hf:owner/name for a data set of the Hugging Face hub"
SERVICE_EXTRA = "pip install 'punchline[service]'"
GZIP = b"\x1f\x8b"


class Source(Protocol):
    """A table of rows. `total` None: not known."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def columns(self) -> list[str]:
        """The names of its columns, in their order."""
        ...

    @property
    def total(self) -> int | None:
        """How many rows there are."""
        ...

    def records(self, columns: Sequence[str]) -> Iterator[Record]:
        """Yield every row once, with at least these columns of it. Raises BadSource."""
        ...


def open_file(path: Path, options: TextOptions) -> Source:
    """Open a file. A text file is read through once, so that what is broken shows before anything is imported.

    Raises BadSource with a sentence.
    """
    with _told(path):
        if path.is_dir():
            raise BadSource(f"{path} is a folder. Name the file in it{_candidates(path)}.")
        if not path.exists():
            raise BadSource(f"There is no file {path}.{_alike(path)}")
        if not path.is_file():
            raise BadSource(f"{path} is not a regular file.")
        if not path.stat().st_size:
            raise BadSource(f"{path} is empty.")
        kind = kind_of(path.name)
        with path.open("rb") as file:
            is_packed = file.read(2) == GZIP
        return _opened(path.name, kind, lambda: _bytes_of(path, is_packed), options)


def open_attachment(name: str, content: bytes, options: TextOptions) -> Source:
    """Open a CSV, TSV or JSONL file that is in memory. Raises BadSource."""
    kind = kind_of(name)
    if kind == "parquet":
        raise BadSource("I read CSV, TSV and JSONL files here. `punchline import` in the terminal reads Parquet too.")
    if not content:
        raise BadSource(f"{name} is empty.")
    if content.startswith(GZIP):
        raise BadSource(f"{name} is packed. Unpack it first, then attach it again.")
    return _opened(name, kind, lambda: io.BytesIO(content), options)


def kind_of(name: str) -> str:
    """Return the kind of a file by its name. Raises BadSource for one that is not read."""
    suffixes = [suffix[1:].lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in ("gz", "gzip"):
        suffixes.pop()
    if suffixes and (kind := KINDS.get(suffixes[-1])):
        return kind
    what = f"{name} is not a file I can read" if suffixes else f"I cannot tell from its name what {name} holds"
    help_ = " One JSON object a line makes a .json file a .jsonl file." if suffixes[-1:] == ["json"] else ""
    raise BadSource(f"{what}. It must be {FORMATS}.{help_}")


def _bytes_of(path: Path, is_packed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if is_packed else path.open("rb")


def _opened(name: str, kind: str, open_bytes: Callable[[], BinaryIO], options: TextOptions) -> Source:
    source: Source
    source = ParquetTable(name, open_bytes) if kind == "parquet" else TextTable(name, kind, open_bytes, options)
    if not source.total:
        raise BadSource(f"There are no rows in {name}" + (", only the names of columns." if source.columns else "."))
    return source


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in a sentence what the disk or the packing has against a file."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadSource(f"{path} is damaged: unpacking it failed ({error}). Fetch it again.") from error
    except OSError as error:
        raise BadSource(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error


def _alike(path: Path) -> str:
    """Name the file that was probably meant."""
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    alike = difflib.get_close_matches(path.name, there, n=1)
    return f" Is it {path.parent / alike[0]}?" if alike else ""


def _candidates(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if p.suffix != ".json" and _is_readable_kind(p.name))
    return f", for example {folder / found[0]}" if found else "; I see none that I can read"


def _is_readable_kind(name: str) -> bool:
    try:
        kind_of(name)
    except BadSource:
        return False
    return True


class ParquetTable:
    """A Parquet file, read a batch of rows at a time."""

    def __init__(self, name: str, open_bytes: Callable[[], BinaryIO]) -> None:
        self.name = name
        self._open = open_bytes
        with self._opened() as file:
            self.columns = list(file.schema_arrow.names)
            self.total: int | None = file.metadata.num_rows

    def records(self, columns: Sequence[str]) -> Iterator[Record]:
        """Yield these columns of every row."""
        line = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                for values in batch.to_pylist():
                    line += 1
                    yield Record(line, values)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise BadSource(
                f"Reading Parquet needs pyarrow, which is not installed here: {SERVICE_EXTRA}. CSV and JSONL do not."
            ) from None
        with self._open() as stream:
            # a Parquet file is read from its end, so it cannot stay packed
            plain = io.BytesIO(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
            try:
                yield pyarrow.parquet.ParquetFile(plain)
            except pyarrow.ArrowException as error:
                raise BadSource(f"{self.name} is not a Parquet file, or it is damaged: {str(error)[:200]}") from error
