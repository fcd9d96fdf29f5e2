"""The finished models on disk: one folder each, whole or not there, with where they came from. No torch here.

models/ft:jokes-mini:…/
  adapter_config.json  adapter_model.safetensors       of `lora`: runs on another model, `runs_on`
  config.json  model.safetensors  tokenizer.json …     of `full`
  manifest.json      lineage: the jokes (ids and hashes), base, seed, settings, figures, gate, code
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from model_service.training import durable

ASIDE = ".aside-"
GONE = f"{ASIDE}deleted-"


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A model this service has trained."""

    id: str
    folder: Path
    manifest: dict[str, Any]


def folder_name(model_id: str) -> str:
    """Return the folder name of a model id; only a hub id's slash has to give way."""
    return model_id.replace("/", "--")


def tuned_id(base: str, suffix: str, job_id: str) -> str:
    """Return the id of a model that is about to be trained."""
    return f"ft:{base}:{suffix}:{job_id}"


def begin(models: Path, model_id: str) -> Path:
    """Make an empty folder aside, for a model to be written into and measured there before anybody sees it."""
    models.mkdir(parents=True, exist_ok=True)
    aside = models / f"{ASIDE}{folder_name(model_id)}"
    if aside.exists():
        shutil.rmtree(aside)  # left by a power cut
    aside.mkdir()
    return aside


def publish(models: Path, aside: Path, manifest: dict[str, Any]) -> Path:
    """Add the manifest to what `begin` made, and give it its name in one step. Returns the folder."""
    final = models / folder_name(manifest["id"])
    durable.write_json(aside / "manifest.json", manifest)
    durable.publish(aside, final)
    return final


def remove(models: Path, model_id: str) -> None:
    """Delete a model: out of sight in one step, so that half a model is never found. One that is gone stays gone."""
    _remove(models / folder_name(model_id))


def remove_made_by(models: Path, job_id: str) -> None:
    """Delete what a job has made, whole or half written. The id of a tuned model ends in its job's."""
    for folder in list(models.glob(f"*:{job_id}")):
        _remove(folder)


def end_removals(models: Path) -> None:
    """Delete what a power cut left of removed models."""
    for gone in models.glob(f"{GONE}*"):
        shutil.rmtree(gone)


def _remove(folder: Path) -> None:
    gone = folder.with_name(f"{GONE}{folder.name}")
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def finished(models: Path) -> list[TunedModel]:
    """List every whole model, oldest first."""
    found = []
    for folder in models.glob("*"):
        manifest = None if folder.name.startswith(ASIDE) else durable.read_json(folder / "manifest.json")
        if manifest is not None:
            found.append(TunedModel(manifest["id"], folder, manifest))
    return sorted(found, key=lambda model: (model.manifest["created_at"], model.id))


def base_of(folder: Path, model_id: str) -> str:
    """Return the untuned model that a model goes back to: the `<base>` in its tuned children's ids."""
    manifest = durable.read_json(folder / "manifest.json")
    return model_id if manifest is None else str(manifest["base"])


def runs_on(folder: Path) -> str:
    """Return the model that an adapter trained here runs on; empty for others.

    That is its base, or a tuned model with weights of its own that it was trained on.
    """
    manifest = durable.read_json(folder / "manifest.json") or {}
    return str(manifest.get("runs_on") or manifest.get("base") or "")


def task_of(manifest: dict[str, Any]) -> Literal["generate", "classify"]:
    """Return what a tuned model does."""
    return "classify" if manifest.get("task") == "classify" else "generate"


def num_parameters(folder: Path) -> int:
    """Count the parameters of a model from the headers of its safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for length in tensor["shape"]:
                    size *= length
                total += size
    return total


def code_version() -> str:
    """Return the package's version and a short hash of the training code itself."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"{version('punchline')}+{digest.hexdigest()[:10]}"
