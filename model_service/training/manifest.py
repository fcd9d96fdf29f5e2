"""Writes down where a model comes from: rows and hashes, base, seed, settings, figures, gate, code. No torch here.

A model that goes on from a tuned one holds that one's rows, too; they are listed as `inherited`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model_service.training import durable, registry
from model_service.training.folder import JobFolder
from model_service.training.gate import Verdict
from model_service.training.recipe import Precision, Recipe

IN_THE_WEIGHTS = ("train", "inherited")  # a held-out row has chosen the step, but nothing was learned from it


def manifest(
    folder: JobFolder,
    recipe: Recipe,
    computes: Precision,
    verdict: Verdict,
    *,
    metrics: Mapping[str, Any],
    sha256: str,
    sides: Mapping[str, Sequence[tuple[str | None, str]]],
) -> dict[str, Any]:
    """Collect a model's lineage. sha256: of the weights it started from. sides: (row id, hash of the text) by side."""
    job = folder.job
    request = job["request"]
    started_from = Path(job.get("adapter_folder") or job["base_folder"])
    return {
        "id": job["fine_tuned_model"],
        "task": "classify" if request.get("method") == "classify" else "generate",
        "created_at": int(time.time()),
        "job": folder.id,
        "base": job["base"],
        "runs_on": job.get("runs_on", job["base"]),
        "started_from": request["model"],
        "started_from_sha256": sha256,
        "training_file": request["training_file"],
        "seed": recipe.seed,
        "hyperparameters": asdict(recipe),
        "precision": computes,
        "metrics": dict(metrics),
        "gate": asdict(verdict),
        "code_version": registry.code_version(),
        "examples": [
            *({"id": row, "sha256": sha, "side": side} for side, rows in sides.items() for row, sha in rows),
            *_inherited(started_from),
        ],
    }


def _inherited(started_from: Path) -> list[dict[str, Any]]:
    """List the rows that the model it started from has learned from."""
    earlier = durable.read_json(started_from / "manifest.json") or {}
    return [row | {"side": "inherited"} for row in earlier.get("examples", []) if row["side"] in IN_THE_WEIGHTS]
