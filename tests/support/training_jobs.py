"""Builders for training tests: learnable made-up jokes, uploads, job folders, a pool without engines. No torch."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from model_service.config import ModelSettings
from model_service.errors import ModelNotFound
from model_service.training import durable
from model_service.training.examples import Row
from model_service.training.folder import JobFolder
from model_service.training.orders import Order, Rows, Start, write_job

ANIMALS = ["duck", "cat", "cow", "bee", "owl", "pig", "hen", "fox", "bat", "emu"]
PLACES = ["bar", "bank", "bus", "shop", "gym", "zoo", "pub", "spa", "lab", "inn"]


def make_rows(n: int = 100, seed: int = 0) -> list[Row]:
    """Return up to 100 different short jokes of one shape, so that a tiny model learns it in a few steps."""
    pairs = [(animal, place) for animal in ANIMALS for place in PLACES]
    random.Random(seed).shuffle(pairs)
    jokes = [f" A {animal} walks into a {place}. Ouch!" for animal, place in pairs[:n]]
    return [Row("JOKE:", joke, f"joke-{i}") for i, joke in enumerate(jokes)]


def jsonl(rows: list[Row]) -> bytes:
    """Return rows as an upload."""
    lines = ({"id": row.id, "prompt": row.prompt, "completion": row.completion} for row in rows)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def make_job(
    home: Path,
    base: Path | Start,
    *,
    rows: Rows | None = None,
    recipe: dict[str, object] | None = None,
    **changes: object,
) -> JobFolder:
    """Write a queued job of 14 steps and 4 looks on `base`; `recipe` changes what an order cannot say."""
    values = {"model": "tiny", "training_file": "file-1", "seed": 3, "n_epochs": 2, "batch_size": 12, "adapter": "full"}
    order = Order(**{**values, **changes})  # type: ignore[arg-type]
    start = base if isinstance(base, Start) else Start(base, order.model)
    folder = write_job(home / "jobs", order, start, rows or make_rows(), None)
    job = folder.job
    job["recipe"] |= {"evaluations": 4, **(recipe or {})}
    durable.write_json(folder.path / "job.json", job)
    return folder


def fake_base(folder: Path) -> Path:
    """Write the least that counts as a model's folder: its sizes, and a safetensors header without a parameter."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_embd": 32, "n_layer": 2}')
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


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
        assert (Path(spec.source) / "manifest.json").exists()
        self.loaded.append(spec)
        self.folders[spec.name] = Path(spec.source)
