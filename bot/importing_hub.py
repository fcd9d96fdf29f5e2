"""A data set of the Hugging Face hub as a source: rows come from a process that has `datasets`, as they are streamed.

`bot` stays light: the library and all it loads live and end in `python -m model_service.hub_rows` (its protocol is
drawn there), which never sees the Discord token.
"""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bot.importing_records import BadSource, Record
from bot.importing_sources import SERVICE_EXTRA

PREFIX = "hf:"
END_LIMIT_S = 10.0
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


class HubRows:
    """An open data set; made by `open_hub`, which ends its process."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name, self._process = name, process
        header = self._read()
        self.columns: list[str] = header["columns"]
        self.total: int | None = header["total"]
        self.licence: str | None = header["licence"]
        if not self.columns:
            raise BadSource(f"There are no rows in {name}.")

    def records(self, columns: Sequence[str]) -> Iterator[Record]:
        """Yield these columns of every row; once. Raises BadSource."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; reading says how
            self._process.stdin.write(json.dumps(list(columns)) + "\n")
            self._process.stdin.flush()
        line = 0
        while not isinstance(row := self._read(), dict):
            line += 1
            yield Record(line, dict(zip(columns, row, strict=True)))

    def _read(self) -> Any:
        """Return the next message: a row, or a dict at the beginning and at the end."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise BadSource(f"Reading {self.name} broke off (its process ended with {self._process.wait()}).")
        message = json.loads(line)
        if isinstance(message, dict) and "error" in message:
            raise BadSource(message["error"])
        return message


@contextlib.contextmanager
def open_hub(source: str, split: str, subset: str | None) -> Iterator[HubRows]:
    """Open `hf:owner/name` until the block ends. Raises BadSource with a sentence."""
    name = source.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise BadSource(f"{source} names no data set. Write it as the hub does: {PREFIX}owner/name.")
    if importlib.util.find_spec("datasets") is None:
        raise BadSource(f"Data sets of the hub need the library datasets, not installed here: {SERVICE_EXTRA}.")
    argv = [sys.executable, "-P", "-m", "model_service.hub_rows", name, "--split", split]
    argv += ["--subset", subset] if subset else []
    env = {key: value for key, value in os.environ.items() if not key.startswith("DISCORD_TOKEN")}
    env["USE_TORCH"] = "0"  # else the library loads it, for nothing
    with subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield HubRows(name, process)
        finally:
            process.kill()
            process.wait(END_LIMIT_S)
