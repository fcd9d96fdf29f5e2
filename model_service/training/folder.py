"""A job is a folder; its files are its state. No torch here.

    jobs/ftjob-…/
      job.json            what was asked for; never changes
      status.json         queued, running, …: written by the service
      progress.json       step, loss, time left: written by the child
      choices.json        what the child measured and keeps to when it is started again
      events.jsonl        one line an event, appended by both
      train.jsonl  held_out.jsonl      until the job has ended
      before.json         what the old model says, noted by the child before it trains; until the job has ended
      checkpoints/        written by the child, pruned
      result.json         the child's last word when it ended well: figures, gate, model
      failure.json        the child's last word when it gave up: a sentence
      worker.log  lock

Each file has one writer (events apart, whose lines are appended whole), and is replaced, never rewritten.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from model_service.training import durable
from model_service.training.examples import Row
from model_service.training.labelled import Labelled
from model_service.training.preferences import Preferred

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
KEPT_CHECKPOINTS = 2  # the newest; one would be lost while it is being replaced
FINAL: tuple[Status, ...] = ("succeeded", "failed", "cancelled")


class JobFolder:
    """Typed access to one job's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.checkpoints = path / "checkpoints"
        self.log = path / "worker.log"
        self.lock = path / "lock"

    @property
    def job(self) -> dict[str, Any]:
        """What was asked for."""
        job = durable.read_json(self.path / "job.json")
        assert job is not None, f"{self.path} has no job.json"
        return job

    @property
    def status(self) -> dict[str, Any]:
        """`status`, `started_at`, `finished_at`, `error`, `fine_tuned_model`."""
        return durable.read_json(self.path / "status.json") or {"status": "queued"}

    def change_status(self, **changes: Any) -> None:
        """Merge `changes` into status.json. Only the service calls this."""
        durable.write_json(self.path / "status.json", self.status | changes)

    @property
    def progress(self) -> dict[str, Any]:
        """`step`, `total_steps`, `loss`, `eta_s`, `val_loss_before`, …; empty until the child has begun."""
        return durable.read_json(self.path / "progress.json") or {}

    def write_progress(self, progress: dict[str, Any]) -> None:
        """Replace the progress. Only the child calls this."""
        durable.write_json(self.path / "progress.json", progress, durable=False)

    @property
    def choices(self) -> dict[str, Any]:
        """`precision`: what a restart must not choose anew; empty until the child has begun."""
        return durable.read_json(self.path / "choices.json") or {}

    def write_choices(self, choices: dict[str, Any]) -> None:
        """Keep what was chosen. Only the child calls this."""
        durable.write_json(self.path / "choices.json", choices)

    @property
    def result(self) -> dict[str, Any] | None:
        """`fine_tuned_model`, figures, gate and evaluation, once the child has ended well."""
        return durable.read_json(self.path / "result.json")

    def write_result(self, result: dict[str, Any]) -> None:
        """Say that the job ended well. Only the child calls this."""
        durable.write_json(self.path / "result.json", result)

    @property
    def failure(self) -> dict[str, Any] | None:
        """`message` and `code`, once the child has given up for a reason that a restart would meet again."""
        return durable.read_json(self.path / "failure.json")

    def write_failure(self, message: str, code: str) -> None:
        """Say why the job cannot end well. Only the child calls this."""
        durable.write_json(self.path / "failure.json", {"message": message, "code": code})

    def write_rows(self, name: str, rows: Iterable[Row | Labelled | Preferred]) -> None:
        """Write `train` or `held_out` rows, one JSON object a line."""
        lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        durable.write_text(self.path / f"{name}.jsonl", "".join(lines))

    def forget_rows(self) -> None:
        """Delete the rows: a job that has ended needs them no more, and people may take them back."""
        for name in ("train", "held_out"):
            (self.path / f"{name}.jsonl").unlink(missing_ok=True)

    def clean(self) -> None:
        """Free the disk that only a running job needs, and keep nobody's texts longer; manifests have hashes."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.path / "cache", ignore_errors=True)
        (self.path / "before.json").unlink(missing_ok=True)
        self.forget_rows()

    def add_event(self, message: str, *, level: str = "info", data: dict[str, Any] | None = None) -> None:
        """Append an event; `data` makes it one of type `metrics`."""
        event = {
            "object": "fine_tuning.job.event",
            "id": f"ftevent-{secrets.token_hex(8)}",
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": "message" if data is None else "metrics",
            "data": data,
        }
        line = (json.dumps(event, ensure_ascii=False) + "\n").encode()
        descriptor = os.open(self.path / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)  # one write, so that lines of two processes never mix
        finally:
            os.close(descriptor)

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first. Steps that a restart trained again appear once, as they were last."""
        by_key: dict[object, dict[str, Any]] = {}
        for event in self._read_events():
            step = (event["data"] or {}).get("step")
            key = event["id"] if step is None else (event["message"].split(" ", 1)[0], step)
            by_key.pop(key, None)
            by_key[key] = event
        return list(by_key.values())

    def _read_events(self) -> Iterator[dict[str, Any]]:
        try:
            lines = (self.path / "events.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the end of a line that a power cut tore

    def end_torn_line(self) -> None:
        """Make the next event start on a line of its own, whatever a power cut left. Called before a job goes on."""
        path = self.path / "events.jsonl"
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")

    def latest_step(self) -> int:
        """The step of the newest whole checkpoint; 0 without one."""
        return max((int(p.name.removeprefix("step-")) for p in self.checkpoints.glob("step-*")), default=0)
