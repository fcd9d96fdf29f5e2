"""Keeps uploaded training files: checked once, then never changed. No torch here.

files/file-…/
  content.jsonl      the bytes as they came
  file.json          name, size, shape, number of rows
"""

import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from model_service.errors import NotFound, RequestRefused, TooLarge
from model_service.training import durable
from model_service.training.examples import BrokenFile, Row, check, read_rows
from model_service.training.labelled import Labelled, read_labelled
from model_service.training.preferences import Preferred, read_preferred

MAX_FILE_BYTES = 64 * 2**20  # some 200,000 jokes
MAX_NAME_LEN = 200
_ID = re.compile(r"file-[0-9a-f]{24}")


class Uploads:
    """The files folder. Every method blocks for as long as the disk takes."""

    def __init__(self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._folder = folder
        self.max_file_bytes = max_file_bytes

    def add(self, name: str, content: bytes) -> dict[str, Any]:
        """Check and keep a file; returns its record. Raises RequestRefused with the broken line, TooLarge."""
        if len(content) > self.max_file_bytes:
            raise self.too_large()
        try:
            summary = check(content)
        except BrokenFile as error:
            raise RequestRefused(str(error), param="file", code="invalid_file") from error
        record = {
            "id": f"file-{secrets.token_hex(12)}",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name[:MAX_NAME_LEN].encode("utf-8", "replace").decode(),
            "shape": summary.shape,
            "num_rows": summary.num_rows,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / f".aside-{record['id']}"
        aside.mkdir()
        try:
            (aside / "content.jsonl").write_bytes(content)
            durable.write_json(aside / "file.json", record)
            durable.publish(aside, self._folder / str(record["id"]))
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk leaves no half of a file
        return record

    def too_large(self) -> TooLarge:
        """Say the limit."""
        return TooLarge(
            f"A training file may have at most {self.max_file_bytes // 2**20 or 1} MiB. Split it, or send fewer rows.",
            param="file",
        )

    def get(self, file_id: str) -> dict[str, Any]:
        """Return a file's record. Raises NotFound."""
        record = durable.read_json(self._path(file_id) / "file.json")
        if record is None:
            raise self._not_found(file_id)
        return record

    def content(self, file_id: str) -> bytes:
        """Return the bytes as they came. Raises NotFound."""
        self.get(file_id)
        return (self._path(file_id) / "content.jsonl").read_bytes()

    def supervised_rows(self, file_id: str, param: str) -> list[Row]:
        """Read the rows of a prompt/completion file. Raises NotFound, or RequestRefused for a file of another shape."""
        shape = self.get(file_id)["shape"]
        if shape != "supervised":
            raise RequestRefused(
                f"{param} is a {shape} file; supervised training needs rows with prompt and completion.",
                param=param,
                code="wrong_file_shape",
            )
        return read_rows(self.content(file_id))

    def labelled_rows(self, file_id: str, param: str) -> list[Labelled]:
        """Read the rows of a text/label file. Raises NotFound, or RequestRefused for a file of another shape."""
        shape = self.get(file_id)["shape"]
        if shape != "classify":
            raise RequestRefused(
                f"{param} is a {shape} file; a classifier needs rows with text and label.",
                param=param,
                code="wrong_file_shape",
            )
        return read_labelled(self.content(file_id))

    def preferred_rows(self, file_id: str, param: str) -> list[Preferred]:
        """Read the rows of a prompt/chosen/rejected file. Raises NotFound, or RequestRefused for another shape."""
        shape = self.get(file_id)["shape"]
        if shape != "dpo":
            raise RequestRefused(
                f"{param} is a {shape} file; learning from preferences needs rows with prompt, chosen and rejected.",
                param=param,
                code="wrong_file_shape",
            )
        return read_preferred(self.content(file_id))

    def list(self) -> list[dict[str, Any]]:
        """Return every record, newest first."""
        records = [durable.read_json(path / "file.json") for path in self._folder.glob("file-*")]
        return sorted((r for r in records if r), key=lambda r: (r["created_at"], r["id"]), reverse=True)

    def delete(self, file_id: str) -> None:
        """Remove a file; jobs keep the rows they were started with. Raises NotFound."""
        self.get(file_id)
        gone = self._folder / f".gone-{file_id}"
        self._path(file_id).rename(gone)
        shutil.rmtree(gone)

    def _path(self, file_id: str) -> Path:
        if not _ID.fullmatch(file_id):
            raise self._not_found(file_id)
        return self._folder / file_id

    def _not_found(self, file_id: str) -> NotFound:
        return NotFound(f"There is no file {file_id[:60]!a}. Upload it with POST /v1/files first.", param="file_id")
