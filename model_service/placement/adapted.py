"""Adapters as models: a PEFT folder whose base is loaded runs on the base's engine, under a name of its own. No torch.

pool["gpt2"] ──────────> Engine  <──┐  one set of weights, one batch
pool["our-jokes"] ─> AdaptedGenerator ─ submits with its adapter
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer

from model_service.config import ModelSettings
from model_service.engine.sequence import SamplingParams
from model_service.models.folder import ADAPTER_CONFIG
from model_service.placement.entry import Entry
from model_service.placement.loaded import Carrier, Stream
from model_service.placement.slot import Slot
from model_service.training import registry

_numbers = itertools.count(1)


class AdapterRefused(Exception):
    """An adapter cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """What a loader finds where an adapter lies; `bases` are the names or sources it gives for its base model."""

    folder: Path
    bases: tuple[str, ...]


def adapter_folder(folder: Path) -> AdapterFolder:
    """Read what an adapter says about its base: our own manifest, then PEFT's config. Raises AdapterRefused."""
    path = folder / ADAPTER_CONFIG
    try:
        source = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterRefused(f"{path} could not be read: {error}") from error
    bases = (registry.runs_on(folder), source)
    return AdapterFolder(folder, tuple(str(base) for base in bases if base))


class AdaptedGenerator:
    """The base's engine, seen by someone who wants the adapter's answers. Closing it drops the adapter only."""

    def __init__(self, base: Carrier, key: str) -> None:
        self._base, self._key = base, key

    @property
    def context_len(self) -> int:
        """Tokens that fit, prompt and answer together."""
        return self._base.context_len

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self._base.vocab_size

    @property
    def alive(self) -> bool:
        """Whether the base takes sequences."""
        return self._base.alive

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return self._base.tokenizer

    @property
    def num_running(self) -> int:
        """Sequences in the batch, whatever their adapter."""
        return self._base.num_running

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue, whatever their adapter."""
        return self._base.num_waiting

    @property
    def reused_tokens(self) -> int:
        """Tokens of prompts that did not run, whatever their adapter."""
        return self._base.reused_tokens

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids. May be called from any thread."""
        return self._base.encode(text)

    def submit(
        self, prompt_ids: list[int], params: SamplingParams, user: str = "", *, deadline_s: float | None = None
    ) -> Stream:
        """Queue a sequence that runs with the adapter. Raises what the base raises."""
        return self._base.submit(prompt_ids, params, user, self._key, deadline_s=deadline_s)

    async def close(self) -> None:
        """Drop the adapter; sequences that run with it end by themselves, or with the base."""
        self._base.drop_adapter(self._key)


def find_base(spec: ModelSettings, found: AdapterFolder, entries: Iterable[Entry]) -> Entry:
    """Return the model an adapter belongs to, in memory or not. Raises AdapterRefused with what to change."""
    if spec.weights != "auto" or spec.devices != "auto":
        raise AdapterRefused("it is an adapter, which runs as its base does: leave out its weights and devices.")
    if not found.bases:
        raise AdapterRefused(
            f"{found.folder / ADAPTER_CONFIG} has no base_model_name_or_path: it does not say whose it is."
        )
    models = [entry for entry in entries if not entry.is_adapter and entry.spec.name != spec.name]
    for base in found.bases:
        folder = Path(base).expanduser().resolve()
        for entry in models:
            if (
                base in (entry.spec.name, entry.spec.source)
                or folder == (entry.folder or Path(entry.spec.source)).resolve()
            ):
                return entry
    there = ", ".join(entry.spec.name for entry in models) or "none"
    raise AdapterRefused(
        f"it is an adapter of {found.bases[0]!a}, which is not among the models here ({there})."
        " Put that model into the settings, too."
    )


def check_tasks(base: ModelSettings, spec: ModelSettings) -> None:
    """Raise AdapterRefused unless both continue texts."""
    if base.task != "generate" or spec.task != "generate":
        raise AdapterRefused("it is an adapter; those run on models that generate, and with task = generate.")


async def put_on(base: Slot, spec: ModelSettings, folder: Path) -> Slot:
    """Load an adapter onto its base. Raises AdapterRefused, or what the reading raises; nothing has changed then.

    It has a key of its own on the engine, so that one of the same name can follow while it drains.
    """
    check_tasks(base.spec, spec)
    assert base.loaded
    carrier, key = cast(Carrier, base.model), f"{spec.name} ({next(_numbers)})"
    size_bytes = await carrier.load_adapter(key, folder)
    view = AdaptedGenerator(carrier, key)
    return Slot(spec, replace(base.loaded, model=view, folder=folder, size_bytes=size_bytes), base.placement, base)
