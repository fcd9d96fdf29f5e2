"""What every method does first: is the base still there, is there room, in which format does it compute?

The answers that a restart must not find anew are kept in the job's folder.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from model_service.training import disk, precision
from model_service.training.base_model import Base, load_base
from model_service.training.folder import JobFolder
from model_service.training.loop import TrainingFailed
from model_service.training.recipe import Precision, Recipe


def open_base(
    folder: JobFolder, recipe: Recipe, *, kind: Any = AutoModelForCausalLM, **options: Any
) -> tuple[Base, Precision]:
    """Load what the job starts from, and say in which format its passes compute. Raises TrainingFailed.

    kind, options: the class of transformers that reads it, and what it is told.
    """
    job = folder.job
    source = Path(job["base_folder"])
    adapter = Path(job["adapter_folder"]) if job.get("adapter_folder") else None
    if not (source / "config.json").exists() or (adapter and not adapter.exists()):
        model = job["request"]["model"]
        raise TrainingFailed(f"The model it should start from, {model}, is no longer there.", "base_missing")
    _check_room(folder, job["disk_bytes"])
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    computes = _computes(folder, recipe, device, source)
    base = load_base(source, device, recipe, computes, adapter=adapter, kind=kind, **options)
    return base, computes


def _check_room(folder: JobFolder, need_bytes: int) -> None:
    """Refuse with numbers what cannot fit; it was checked when the job came, which may be days ago."""
    there = sum(path.stat().st_size for path in folder.checkpoints.rglob("*") if path.is_file())
    free_bytes = shutil.disk_usage(folder.path).free
    if sentence := disk.why_not(need_bytes - there, free_bytes):
        raise TrainingFailed(sentence, "disk_full")


def _computes(folder: JobFolder, recipe: Recipe, device: torch.device, source: Path) -> Precision:
    chosen: Precision | None = folder.choices.get("precision")
    if chosen is None:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        chosen = precision.choose(recipe, device, int(config["n_embd"]))
        folder.write_choices({"precision": chosen})
    return chosen
