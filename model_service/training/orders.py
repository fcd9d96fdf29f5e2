"""Turns what someone asks for into a job's folder, or refuses it with what to change. No torch here."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from model_service.errors import RequestRefused
from model_service.training import disk, durable, registry
from model_service.training.examples import Row, split, too_few
from model_service.training.folder import JobFolder
from model_service.training.labelled import Labelled, label_order, split_labelled
from model_service.training.preferences import Preferred, split_preferred
from model_service.training.recipe import Adapter, Auto, Method, Recipe, resolve


@dataclass(frozen=True, slots=True)
class Start:
    """What a job starts from. folder: of whole weights. adapter: one on them to go on from.

    runs_on: the name of the model with these weights.
    """

    folder: Path
    runs_on: str
    adapter: Path | None = None


def start_of(model_id: str, models: Path, folder_of: Callable[[str], Path]) -> Start:
    """Say what a job on a model starts from; on an adapter of ours, from its matrices on the same weights.

    models: where those trained here lie. folder_of: finds any other; raises what it raises.
    """
    tuned = models / registry.folder_name(model_id)
    if (tuned / "adapter_config.json").exists():
        base = registry.runs_on(tuned)
        return Start(folder_of(base), base, tuned)
    return Start(folder_of(model_id), model_id)


@dataclass(frozen=True, slots=True)
class Order:
    """What someone asks a job to do."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str = ""
    seed: int | None = None
    method: Method = "supervised"
    adapter: Adapter = "lora"
    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    gradient_checkpointing: bool = False
    beta: float | Auto = "auto"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job learns from, by side, and what else its job.json says of it."""

    train: Sequence[Row | Labelled | Preferred]
    held_out: Sequence[Row | Labelled | Preferred]
    counts: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)


Rows = Sequence[Row] | Sequence[Labelled] | Sequence[Preferred]


def write_job(jobs: Path, order: Order, start: Start, rows: Rows, validation: Rows | None) -> JobFolder:
    """Divide the rows, settle the recipe, and write a new job's folder in one step. Raises RequestRefused."""
    if order.method == "classify":
        parts = _labelled_parts(start, cast(Sequence[Labelled], rows), cast(Sequence[Labelled] | None, validation))
    elif order.method == "dpo":
        parts = _preferred_parts(cast(Sequence[Preferred], rows), cast(Sequence[Preferred] | None, validation))
    else:
        parts = _joke_parts(cast(Sequence[Row], rows), cast(Sequence[Row] | None, validation))
    return _write(jobs, order, start, parts)


def _joke_parts(rows: Sequence[Row], validation: Sequence[Row] | None) -> Parts:
    parts = split(rows, validation)
    if sentence := too_few(len(parts.train), len(parts.held_out), parts.num_duplicates):
        raise RequestRefused(sentence, param="training_file", code="too_few_examples")
    return Parts(parts.train, parts.held_out, {"duplicates": parts.num_duplicates})


def _labelled_parts(start: Start, rows: Sequence[Labelled], validation: Sequence[Labelled] | None) -> Parts:
    parts = split_labelled(rows, validation)
    config = json.loads((start.folder / "config.json").read_text(encoding="utf-8"))
    labels, keeps_head = label_order(parts.labels, config)
    counts = {"duplicates": parts.num_duplicates, "contradictions": parts.num_contradictions}
    return Parts(parts.train, parts.held_out, counts, {"labels": labels, "keeps_head": keeps_head})


def _preferred_parts(rows: Sequence[Preferred], validation: Sequence[Preferred] | None) -> Parts:
    parts = split_preferred(rows, validation)
    return Parts(parts.train, parts.held_out, {"duplicates": parts.num_left_out})


def _write(jobs: Path, order: Order, start: Start, parts: Parts) -> JobFolder:
    recipe = _recipe(order, len(parts.train))
    rows_bytes = sum(len(json.dumps(asdict(row))) for row in (*parts.train, *parts.held_out))
    disk_bytes = disk.need_bytes(start.folder, recipe.adapter, recipe.lora_rank, rows_bytes)
    if order.method == "classify":  # it is published whole
        disk_bytes += disk.MODEL_BYTES * registry.num_parameters(start.folder)
    jobs.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(jobs).free
    if sentence := disk.why_not(disk_bytes, free_bytes):
        raise RequestRefused(sentence, code="disk_full")
    job_id = f"ftjob-{secrets.token_hex(8)}"
    base = registry.base_of(start.folder, start.runs_on)
    aside = jobs / f".aside-{job_id}"
    aside.mkdir()
    folder = JobFolder(aside)
    job = {
        "id": job_id,
        "created_at": int(time.time()),
        "order": time.time_ns(),  # the queue is worked off by this
        "request": asdict(order),
        "base": base,
        "runs_on": start.runs_on,
        "base_folder": str(start.folder.resolve()),
        "adapter_folder": None if start.adapter is None else str(start.adapter.resolve()),
        "fine_tuned_model": registry.tuned_id(base, order.suffix, job_id),
        "recipe": asdict(recipe),
        "counts": {"train": len(parts.train), "held_out": len(parts.held_out), "too_long": None, **parts.counts},
        **parts.more,
        "disk_bytes": disk_bytes,
    }
    folder.write_rows("train", parts.train)
    folder.write_rows("held_out", parts.held_out)
    folder.change_status(status="queued")
    durable.write_json(aside / "job.json", job)
    folder.add_event(
        f"Created fine-tuning job: {job_id}. It needs at most {disk.mib(disk_bytes)} of disk;"
        f" {disk.mib(free_bytes)} are free."
    )
    durable.publish(aside, jobs / job_id)
    return JobFolder(jobs / job_id)


def _recipe(order: Order, num_train: int) -> Recipe:
    return resolve(
        num_train=num_train,
        adapter=order.adapter,
        seed=secrets.randbelow(2**31) if order.seed is None else order.seed,
        n_epochs=order.n_epochs,
        batch_size=order.batch_size,
        learning_rate_multiplier=order.learning_rate_multiplier,
        gradient_checkpointing=order.gradient_checkpointing,
        method=order.method,
        beta=order.beta,
    )
