"""What a measurement found: one table for people, one JSON object a line for programs, Markdown for the docs."""

import json
import sys
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 160  # of a table that goes into a file or a pipe


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement. rows: a cell per column, as text; objects: what `--json` prints."""

    name: str  # of the command, and of the table in the docs
    title: str
    columns: tuple[str, ...]
    rows: Seq[Seq[str]]
    objects: Seq[Mapping[str, Any]]
    notes: Seq[str] = field(default_factory=tuple)

    @property
    def markdown(self) -> str:
        """The title, the table, and the notes."""
        lines = [self.title, "", _row(self.columns), "|" + "|".join(map(_rule, self.columns)) + "|"]
        lines += [_row(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes)]).strip() + "\n"


def result(
    engine: str,
    model: str,
    weights: str,
    batch: int,
    tokens_per_s: float | None,
    ratio_to_best_peer: float | None,
    **more: float | str | None,
) -> dict[str, Any]:
    """Return one line of `--json`: the six fields that all have, then what the measurement is about."""
    six = {
        "engine": engine,
        "model": model,
        "weights": weights,
        "batch": batch,
        "tokens_per_s": tokens_per_s and round(tokens_per_s, 2),
        "ratio_to_best_peer": ratio_to_best_peer and round(ratio_to_best_peer, 3),
    }
    return {**six, **more}


def show(report: Report, *, as_json: bool) -> None:
    """Print to stdout: the objects, or the table with its notes."""
    if as_json:
        sys.stdout.writelines(json.dumps(found) + "\n" for found in report.objects)
        return
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=report.title, title_justify="left")
    for column in report.columns:
        table.add_column(column, justify="left" if is_text(column) else "right")
    for row in report.rows:
        table.add_row(*row)
    console.print(table)
    for note in report.notes:
        console.print(note, highlight=False, markup=False)


def is_text(column: str) -> bool:
    """Say whether a column holds words; the others hold numbers."""
    return column in ("model", "engine", "weights", "what")


def _row(cells: Seq[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rule(column: str) -> str:
    return "---" if is_text(column) else "--:"
