"""Turns what someone asks for into a job's folder, or refuses it with what to change. No torch here."""

import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from model_service.errors import RequestRefused
from model_service.training import durable, registry
from model_service.training.examples import Row, Split, split, too_few
from model_service.training.folder import JobFolder
from model_service.training.recipe import Adapter, Auto, resolve

DISK_BYTES_PER_PARAMETER: dict[Adapter, int] = {"full": 40, "lora": 6}  # checkpoints, best weights, the result


@dataclass(frozen=True, slots=True)
class Order:
    """What someone asks a job to do."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str = ""
    seed: int | None = None
    adapter: Adapter = "lora"
    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    metadata: dict[str, str] = field(default_factory=dict)


def write_job(
    jobs: Path, order: Order, base_folder: Path, rows: Sequence[Row], validation: Sequence[Row] | None
) -> JobFolder:
    """Divide the rows, settle the recipe, and write a new job's folder in one step. Raises RequestRefused."""
    parts = split(rows, validation)
    if sentence := too_few(len(parts.train), len(parts.held_out), parts.num_duplicates):
        raise RequestRefused(sentence, param="training_file", code="too_few_examples")
    jobs.mkdir(parents=True, exist_ok=True)
    disk_bytes = registry.num_parameters(base_folder) * DISK_BYTES_PER_PARAMETER[order.adapter]
    free_bytes = shutil.disk_usage(jobs).free
    if disk_bytes > free_bytes:
        raise RequestRefused(
            f"This job needs about {disk_bytes / 2**20:,.0f} MiB of disk, but {free_bytes / 2**20:,.0f} MiB are free."
            " Delete old models or jobs first.",
            code="disk_full",
        )
    return _write(jobs, order, base_folder, parts, disk_bytes)


def _write(jobs: Path, order: Order, base_folder: Path, parts: Split, disk_bytes: int) -> JobFolder:
    job_id = f"ftjob-{secrets.token_hex(8)}"
    recipe = resolve(
        num_train=len(parts.train),
        adapter=order.adapter,
        seed=secrets.randbelow(2**31) if order.seed is None else order.seed,
        n_epochs=order.n_epochs,
        batch_size=order.batch_size,
        learning_rate_multiplier=order.learning_rate_multiplier,
    )
    base = registry.base_of(base_folder, order.model)
    aside = jobs / f".aside-{job_id}"
    aside.mkdir()
    folder = JobFolder(aside)
    job = {
        "id": job_id,
        "created_at": int(time.time()),
        "order": time.time_ns(),  # the queue is worked off by this
        "request": asdict(order),
        "base": base,
        "base_folder": str(base_folder.resolve()),
        "fine_tuned_model": registry.tuned_id(base, order.suffix, job_id),
        "recipe": asdict(recipe),
        "counts": {
            "train": len(parts.train),
            "held_out": len(parts.held_out),
            "too_long": None,
            "duplicates": parts.num_duplicates,
        },
        "disk_bytes": disk_bytes,
    }
    folder.write_rows("train", parts.train)
    folder.write_rows("held_out", parts.held_out)
    folder.change_status(status="queued")
    durable.write_json(aside / "job.json", job)
    folder.add_event(f"Created fine-tuning job: {job_id}")
    durable.publish(aside, jobs / job_id)
    return JobFolder(jobs / job_id)
