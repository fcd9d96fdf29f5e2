"""Builders for training tests: made-up jokes that can be learned, uploads, job folders, a pool without engines. No torch."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from model_service.config import ModelSettings
from model_service.errors import ModelNotFound
from model_service.training.examples import Row
from model_service.training.folder import JobFolder
from model_service.training.orders import Order, write_job

ANIMALS = ["duck", "cat", "cow", "bee", "owl", "pig", "hen", "fox", "bat", "emu"]
PLACES = ["bar", "bank", "bus", "shop", "gym", "zoo", "pub", "spa", "lab", "inn"]


def make_rows(n: int, seed: int = 0) -> list[Row]:
    """Return `n` different short jokes of one shape, so that a tiny model learns it in a few steps."""
    pairs = [(animal, place) for animal in ANIMALS for place in PLACES]
    random.Random(seed).shuffle(pairs)
    return [
        Row("JOKE:", f" A {animal} walks into a {place}. Ouch!", f"joke-{i}")
        for i, (animal, place) in enumerate(pairs[:n])
    ]


def jsonl(rows: list[Row]) -> bytes:
    """Return rows as an upload."""
    return "".join(
        json.dumps({"id": row.id, "prompt": row.prompt, "completion": row.completion}) + "\n" for row in rows
    ).encode()


def make_job(home: Path, base: Path, *, rows: list[Row] | None = None, **order: object) -> JobFolder:
    """Write a queued job of a few steps on `base`."""
    chosen = {
        "model": "tiny",
        "training_file": "file-test",
        "seed": 3,
        "n_epochs": 1,
        "batch_size": 12,
        "adapter": "full",
    }
    return write_job(home / "jobs", Order(**{**chosen, **order}), base, rows or make_rows(100), None)  # type: ignore[arg-type]


@dataclass
class Held:
    """A model as the pool describes it."""

    task: str = "generate"


@dataclass
class FakePool:
    """Knows folders and remembers what it was told to load."""

    folders: dict[str, Path]
    tasks: dict[str, str] = field(default_factory=dict)
    loaded: list[ModelSettings] = field(default_factory=list)

    def find(self, model_id: str, /) -> Held:
        if model_id not in self.folders:
            raise ModelNotFound(model_id, list(self.folders))
        return Held(self.tasks.get(model_id, "generate"))

    def folder(self, model_id: str, /) -> Path:
        self.find(model_id)
        return self.folders[model_id]

    async def load(self, spec: ModelSettings, /) -> None:
        assert (Path(spec.source) / "model.safetensors").exists()
        self.loaded.append(spec)
        self.folders[spec.name] = Path(spec.source)
