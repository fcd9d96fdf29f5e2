"""The texts on which quality is measured: held-out jokes where they are at hand, or a file of one's own."""

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
JOKES_DEV = ROOT.parent / "shared" / "data" / "jokes_dev.csv.gz"  # beside a checkout; not part of the project
GENERAL = Path(__file__).parents[1] / "training" / "general.jsonl"
PROMPT = "JOKE:"


@dataclass(frozen=True, slots=True)
class Text:
    """What is measured is `completion` after `prompt`; without a prompt the text follows the end of another."""

    prompt: str
    completion: str

    @property
    def characters(self) -> int:
        """How long the text is, without the space that stands before it."""
        return len(self.completion.removeprefix(" "))


def default_texts() -> Path:
    """Return the held-out jokes if they are beside this checkout, else the general texts of the gate."""
    return JOKES_DEV if JOKES_DEV.exists() else GENERAL


def read_texts(path: Path) -> list[Text]:
    """Read a text file (a text a line), JSONL (`text`, or `prompt` and `completion`) or a gzipped CSV (`text`).

    Raises ValueError with the line's number for JSON of another shape.
    """
    if path.name.endswith(".csv.gz"):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return [Text(PROMPT, f" {' '.join(row['text'].split())}") for row in csv.DictReader(file)]
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".jsonl":
        return [Text("", line) for line in lines if line.strip()]
    return [_from_json(line, number) for number, line in enumerate(lines, 1) if line.strip()]


def _from_json(line: str, number: int) -> Text:
    try:
        row = json.loads(line)
        return Text("", row["text"]) if "text" in row else Text(row["prompt"], row["completion"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'line {number} holds neither "text" nor "prompt" and "completion"') from error
