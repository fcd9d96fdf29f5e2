"""`punchline import`: what comes in, what does not and why; whatever is wrong gets a sentence."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from bot.importing_records import TextOptions
from bot.store import GLOBAL, Store
from tests.operations.import_files import TEXTS, Shell, lines, many, numbered, separated, write
from tests.store.builders import without_privileges


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("j.csv", separated(numbered(TEXTS)), "utf-8"),
        ("j.CSV.gz", separated(numbered(TEXTS)), "utf-8"),
        ("j.csv", separated(numbered(TEXTS)), "utf-8-sig"),
        ("j.csv", separated(numbered(TEXTS)), "utf-16"),
        ("j.csv", separated(numbered(TEXTS), ";"), "utf-8"),
        ("j.csv", separated(numbered(TEXTS)).replace("\r\n", "\n"), "utf-8"),
        ("j.tsv", separated(numbered(TEXTS), "\t"), "utf-8"),
        ("j.tsv.gz", separated(numbered(TEXTS), "\t"), "utf-8"),
        ("j.jsonl", lines(TEXTS), "utf-8"),
        ("j.ndjson.gz", lines(TEXTS), "utf-8"),
    ],
)
def test_a_text_file_of_every_kind_brings_its_jokes_whole(
    shell: Shell, tmp_path: Path, name: str, content: str, encoding: str
) -> None:
    ended = shell.load(write(tmp_path / name, content, encoding))
    assert (ended.code, ended.err) == (0, "")
    assert f"{name}, column joke: 4 rows read" in ended.out
    assert shell.texts() == TEXTS


@pytest.mark.parametrize("packed", [False, True])
def test_a_parquet_file_brings_its_jokes_and_says_what_else_is_in_it(
    shell: Shell, tmp_path: Path, packed: bool
) -> None:
    path = parquet(tmp_path / "j.parquet", id=[1, 2, 3, 4, 5, 6], joke=[*TEXTS, None, "x"])
    ended = shell.load(
        write(tmp_path / "j.parquet.gz", path.read_bytes().decode("latin-1"), "latin-1") if packed else path
    )
    assert ended.code == 0
    assert "1 empty; first in line 5" in ended.out
    assert "1 too short (under 3 characters); first in line 6" in ended.out
    assert shell.texts() == TEXTS


def test_every_row_is_new_a_duplicate_or_rejected_with_the_reason(shell: Shell, tmp_path: Path) -> None:
    shell.load(write(tmp_path / "before.csv", separated(numbered(TEXTS[:1]))))
    rows = [
        TEXTS[0].upper(),  # line 2: here already, spelled otherwise
        "A new joke about a duck.",
        "a NEW joke, about: a duck!",  # twice in the source
        "",
        "ha",
        "long " * 300,
        "404",
        "Half a joke\x00",
        "See https://example.org for the joke",
        "[removed]",
        "<@123> walks into a bar",
        "Exactly a thousand: ".ljust(1000, "h"),
    ]
    ended = shell.load(write(tmp_path / "j.csv", separated([("joke",), *((row,) for row in rows)])))
    assert ended.code == 0
    assert "12 rows read\n        2  new\n" in ended.out
    assert "        2  duplicates: 1 within the source, 1 here already\n        8  rejected:\n" in ended.out
    for line in (
        "1 empty; first in line 5",
        "1 too short (under 3 characters); first in line 6",
        "1 too long (over 1,000 characters; nothing is cut); first in line 7",
        "that cannot be stored); first in line 8",
        "3 filtered",
        "removed post); first in line 10",
    ):
        assert line in ended.out
    assert shell.texts() == [TEXTS[0], rows[1], rows[11]]


def test_an_import_again_brings_nothing_new(shell: Shell, tmp_path: Path) -> None:
    path = many(tmp_path / "j.csv", 2500)
    assert "    2,500  new" in shell.load(path).out
    again = shell.load(path)
    assert again.code == 0
    assert "        0  new\n    2,500  duplicates: 0 within the source, 2,500 here already" in again.out
    assert len(shell.kept()) == 2500


def test_a_dry_run_counts_shows_a_few_and_writes_nothing(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "j.csv", separated(numbered([*TEXTS, TEXTS[0], "x"])))
    ended = shell.load(path, dry_run=True)
    assert ended.code == 0
    assert "6 rows read\n        4  new (a dry run: nothing was written)\n        1  duplicates" in ended.out
    assert f"For example:\n  {TEXTS[0]}\n" in ended.out
    assert "  Two lines walk into a bar. / The third one is a ruler.\n" in ended.out
    assert not shell.settings.home.exists()
    shell.settings.make_home()
    shell.load(write(tmp_path / "one.csv", separated(numbered(TEXTS[:1]))))
    assert (
        "3  new (a dry run: nothing was written)\n        2  duplicates: 1 within" in shell.load(path, dry_run=True).out
    )
    assert shell.texts() == TEXTS[:1]


def test_imports_are_global_unless_a_server_is_named(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "j.csv", separated(numbered(TEXTS)))
    assert "They are global: no server tells them" in shell.load(path, licence=" MIT ").out
    assert "They belong to the server 77" in shell.load(path, guild=77).out
    everybodys, servers = shell.kept(GLOBAL), shell.kept(77)
    assert {(j.is_global, j.licence, j.provenance, j.author_id, j.trainable) for j in everybodys} == {
        (True, "MIT", "import", None, True)
    }
    assert {(j.is_global, j.licence) for j in servers} == {(False, "not stated (j.csv)")}
    assert len(everybodys) == len(servers) == 4
    assert shell.kept(78) == []


def test_rows_keep_their_own_licence_unless_one_is_named(shell: Shell, tmp_path: Path) -> None:
    rows = [("joke", "licence"), (TEXTS[0], "CC-BY-4.0"), (TEXTS[1], " ")]
    path = write(tmp_path / "j.csv", separated(rows))
    shell.load(path)
    assert [joke.licence for joke in shell.kept()] == ["CC-BY-4.0", "not stated (j.csv)"]
    shell.load(path, guild=1, licence="CC0-1.0")
    assert [joke.licence for joke in shell.kept(1)] == ["CC0-1.0", "CC0-1.0"]


@pytest.mark.parametrize(
    ("columns", "asked", "chosen"),
    [
        (("ID", "Joke"), (), "column Joke"),
        (("id", "short_joke"), (), "column short_joke"),
        (("whatever",), (), "column whatever"),
        (("title", "text"), ("TITLE",), "column title"),
        (("title", "text"), (), "column text"),
        (("setup", "punchline"), ("setup", "punchline"), "columns setup + punchline"),
    ],
)
def test_the_column_is_the_one_that_is_named_or_the_obvious_one(
    shell: Shell, tmp_path: Path, columns: tuple[str, ...], asked: tuple[str, ...], chosen: str
) -> None:
    cells = ["What is brown and sticky?", "A stick."][: len(columns)]
    ended = shell.load(write(tmp_path / "j.csv", separated([columns, cells])), columns=asked)
    assert ended.code == 0, ended.err
    assert f", {chosen}: 1 row read" in ended.out
    if len(asked) == 2:
        assert shell.texts() == ["What is brown and sticky? A stick."]


@pytest.mark.parametrize(
    ("columns", "asked", "sentence"),
    [
        (("id", "Titel"), (), "holds the jokes? I cannot tell: no column's name says so. It has id, Titel. Say"),
        (("setup", "punchline"), (), "Say it like this: --column setup --column punchline"),
        (("text", "joke"), (), "it (text, joke). It has text, joke. Say it like this: --column text"),
        (("id", "Der Witz"), ("witz",), "j.csv has no column 'witz'. It has id, \"Der Witz\". Choose with --column."),
        (("Why did the hen cross? It was late.",), (), "looks like a joke, not like the name of a column"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_clear_is_asked_for_with_those_there_are(
    shell: Shell, tmp_path: Path, columns: tuple[str, ...], asked: tuple[str, ...], sentence: str
) -> None:
    ended = shell.load(write(tmp_path / "j.csv", separated([columns, ["a joke"] * len(columns)])), columns=asked)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.err
    assert not shell.database.exists()


def test_a_file_without_names_of_columns_can_be_read(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "j.csv", "1,The first joke\n2,The second joke\n")
    ended = shell.load(path, columns=("2",), text=TextOptions(has_header=False))
    assert ended.code == 0
    assert shell.texts() == ["The first joke", "The second joke"]


def test_a_ragged_row_is_rejected_and_never_a_shorter_joke(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "j.csv", "id,joke\n1,A duck, a goose and a hen\n2,A whole joke\n3\n\n4,Another one,\n")
    ended = shell.load(path)
    assert ended.code == 0
    assert "3 a row that has not 2 columns, as the first line has; first in line 2" in ended.out
    assert shell.texts() == ["A whole joke"]


def test_commas_in_a_file_of_one_column_belong_to_the_joke(shell: Shell, tmp_path: Path) -> None:
    shell.load(write(tmp_path / "j.csv", 'joke\nA duck, a goose, a hen\n"Said, ""moo"", the cow"\n'))
    assert shell.texts() == ["A duck, a goose, a hen", 'Said, "moo", the cow']


def test_broken_lines_are_counted_with_their_reason(shell: Shell, tmp_path: Path) -> None:
    content = '{"joke": "A good joke"}\nnot json\n["a joke"]\n{"joke": ["a list"]}\n{"other": "x"}\n' + "[" * 9999
    ended = shell.load(write(tmp_path / "j.jsonl", content))
    assert ended.code == 0
    assert "3 a line that is not a JSON object; first in line 2" in ended.out
    assert "1 empty; first in line 5" in ended.out
    assert shell.texts() == ["A good joke"]
    quotes = shell.load(write(tmp_path / "j.csv", 'id,joke\n1,"A "duck"\n2,A second good joke\n'))
    assert "1 quotation marks that do not match; first in line 2" in quotes.out
    assert shell.texts()[1:] == ["A second good joke"]


def test_quotation_marks_can_be_taken_as_they_are(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "j.tsv", 'id\ttext\n1\t"Moo" said the cow\n2\t"Moo, said another\n3\tA calf\n')
    ended = shell.load(path)
    assert ended.code == 1
    assert "never closes. Write quotation marks inside a text twice" in ended.err
    assert "--no-quotes" in ended.err
    assert shell.load(path, text=TextOptions(has_quotes=False)).code == 0
    assert shell.texts() == ['"Moo" said the cow', '"Moo, said another', "A calf"]
    some = write(tmp_path / "some.csv", 'id,text\n1,"Moo" said a bull\n2,An ox\n')
    assert "If all quotation marks are parts of the texts, --no-quotes takes them" in shell.load(some).out


def test_another_encoding_stops_before_anything_is_written_and_both_ways_on_work(shell: Shell, tmp_path: Path) -> None:
    path = many(tmp_path / "j.csv", 1500)
    path.write_bytes(path.read_bytes() + "Der Käse ist löchrig.\r\n".encode("cp1252"))
    ended = shell.load(path)
    assert (ended.code, ended.out) == (1, "")
    assert "Line 1,502 of j.csv is not UTF-8 text." in ended.err
    assert "--encoding cp1252" in ended.err
    assert "--skip-broken" in ended.err
    assert not shell.database.exists()
    skipped = shell.load(path, text=TextOptions(skip_broken=True))
    assert "1 not text in the file's encoding; first in line 1,502" in skipped.out
    assert "        1  new\n" in shell.load(path, text=TextOptions("cp1252")).out
    assert shell.texts()[-1] == "Der Käse ist löchrig."


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("j.csv", b"", "j.csv is empty."),
        ("j.csv", b"id,joke\n", "There are no rows in j.csv, only the names of columns."),
        ("j.jsonl", b"\n\n", "There are no rows in j.jsonl."),
        ("j.csv", b'id,joke\n1,fine\n2,"never closed\n3,also fine\n', "that opens in line 3 of j.csv never closes"),
        ("j.csv", b'id,joke\n1,"' + b"never closed\n" * 20_000, "that opens in line 2 of j.csv never closes"),
        ("j.csv", b"joke\rOld one\rOld two\r", "j.csv has the line ends of old Macs."),
        ("j.jsonl", b"[1]\n{\n", "No row of j.jsonl can be read. Line 1: a line that is not a JSON object."),
        ("j.csv", b"\x89PNG\r\n\x1a\n\x00", "Line 1 of j.csv is not UTF-8 text."),
        ("j.csv", b"joke\n" + b"x" * 2**21, "Line 2 of j.csv is over 1 MiB long"),
        ("j.csv", b"\xff\xfej\x00o\x00k\x00e\x00\n\x00\x00", "j.csv is not UTF-16 text all the way through."),
        ("j.csv.gz", b"\x1f\x8b\x08\x00broken", "j.csv.gz is damaged: unpacking it failed"),
        ("j.parquet", b"PAR1 no", "j.parquet is not a Parquet file, or it is damaged"),
        ("j.xlsx", b"PK", "j.xlsx is not a file I can read. It must be CSV, TSV, JSONL or Parquet"),
        ("j.json", b"[]", "One JSON object a line makes a .json file a .jsonl file."),
        ("jokes", b"x", "I cannot tell from its name what jokes holds."),
        ("j.csv", b"id,joke\n1,\n2,7\n", "Not one row was a joke, so nothing was imported. Is it the right column?"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    shell: Shell, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    ended = shell.load(path)
    assert ended.code == 1
    assert sentence in ended.err
    assert "Traceback" not in ended.err
    assert not shell.database.exists() or shell.texts() == []


def test_wrong_places_are_a_sentence(shell: Shell, tmp_path: Path) -> None:
    path = many(tmp_path / "jokes.csv", 2)
    assert f"There is no file {tmp_path}/joke.csv. Is it {path}?" in shell.load(tmp_path / "joke.csv").err
    assert f"is a folder. Name the file in it, for example {path}." in shell.load(tmp_path).err
    assert "is not a regular file" in shell.load("/dev/null").err
    assert "Download the file first" in shell.load("https://example.org/jokes.csv").err
    assert "There is no encoding called 'klingon'" in shell.load(path, text=TextOptions("klingon")).err
    path.chmod(0)
    with without_privileges():
        ended = shell.load(path)
    assert ended.code == 1
    assert "jokes.csv cannot be read: permission denied." in ended.err


def test_a_home_that_cannot_be_written_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(many(tmp_path / "j.csv", 2), capsys)  # a file where the folder should be
    ended = shell.load(tmp_path / "j.csv")
    assert ended.code == 1
    assert "Cannot write the database" in ended.err


@pytest.mark.parametrize("name", ["j.jsonl", "j.csv", "j.jsonl.gz", "j.csv.gz"])
def test_importing_an_export_changes_nothing_and_elsewhere_brings_the_same(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shell.load(write(tmp_path / "a.csv", separated(numbered(TEXTS))), licence="CC0-1.0")
    shell.load(many(tmp_path / "b.csv", 2100), licence="MIT")
    assert shell.save(tmp_path / name).out == f"2,104 global jokes in {tmp_path / name}\n"
    before = dump(shell.database)
    ended = shell.load(tmp_path / name)
    assert "        0  new\n    2,104  duplicates: 0 within the source, 2,104 here already" in ended.out
    assert dump(shell.database) == before
    other = Shell(tmp_path / "other", capsys)
    other.settings.make_home()
    other.load(tmp_path / name)
    essence = [[(j.text, j.licence, j.provenance, j.is_global) for j in s.kept()] for s in (shell, other)]
    assert essence[0] == essence[1]
    assert oct((tmp_path / name).stat().st_mode & 0o777) == "0o600"


def dump(database: Path) -> list[str]:
    connection = sqlite3.connect(database)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_what_people_wrote_is_exported_but_never_becomes_an_import(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.load(write(tmp_path / "a.csv", separated(numbered(TEXTS[:2]))), guild=5)
    add_message(shell, "A typed joke about geese.")
    assert shell.save(tmp_path / "j.jsonl", guild=5).out.startswith("3 jokes of the server 5 in")
    rows = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert rows[2] == {"text": "A typed joke about geese.", "provenance": "message", "licence": ""}
    assert "        3  duplicates: 0 within the source, 3 here already" in shell.load(tmp_path / "j.jsonl", guild=5).out
    other = Shell(tmp_path / "other", capsys)
    other.settings.make_home()
    ended = other.load(tmp_path / "j.jsonl")
    assert "1 written by people of a server (a file cannot carry their consent); first in line 3" in ended.out
    assert other.texts() == TEXTS[:2]


def add_message(shell: Shell, text: str) -> None:
    async def add() -> None:
        async with await Store.open(shell.database) as store:
            await store.jokes.add(5, 11, text, "message", None)

    asyncio.run(add())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("j.xlsx", "j.xlsx must end in .jsonl or .csv (or those with .gz)"),
        ("none/j.csv", "none/j.csv cannot be written: no such file or directory."),
    ],
)
def test_an_export_that_cannot_be_written_is_a_sentence(shell: Shell, tmp_path: Path, name: str, sentence: str) -> None:
    assert "There is no collection at" in shell.save(tmp_path / "j.csv").err
    shell.load(many(tmp_path / "a.csv", 2))
    ended = shell.save(tmp_path / name)
    assert ended.code == 1
    assert sentence in ended.err
