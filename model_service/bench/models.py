"""The models that are measured: GPT-2's shapes with random weights, made on the spot, or a checkpoint that is there.

Speed does not depend on what the weights say, so nothing is downloaded. Every engine gets the same weights, in
its own file format; `config.json` of the copy ends no text (`eos_token_id` -1), so that all make as many tokens.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model_service.bench.children import in_child
from model_service.bench.contestants import Entry

# layers, width, heads (Radford et al. 2019; Sanh et al. 2019)
SHAPES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "distilgpt2": (6, 768, 12),
        "gpt2": (12, 768, 12),
        "gpt2-medium": (24, 1024, 16),
        "gpt2-large": (36, 1280, 20),
        "gpt2-xl": (48, 1600, 25),
    }
)
GPTJ_SHAPES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"gpt-j-small": (6, 1024, 4)}  # GPT-J's heads of 256 numbers, at a size that a processor measures in seconds
)
EMBEDDED = Path(__file__).parents[1] / "embedded"
NO_EOS, EOS_KEY = -1, "its_eos_token_id"


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model in a folder of its own, with room beside it for other file formats."""

    name: str
    folder: Path
    log: Path

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        content: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return content

    @property
    def context_len(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self.config["n_positions"])

    @property
    def eos_token_id(self) -> int:
        """The token that ends its texts, which its config.json here does not say."""
        return int(self.config[EOS_KEY])

    def path_for(self, entry: Entry) -> Path:
        """Return the weights as an engine reads them; converted the first time. Raises ChildFailed."""
        if entry.engine == "llama.cpp":
            return self._converted(f"{entry.weights}.gguf", "gguf_file.write_gguf", entry.weights)
        if entry.engine == "ctranslate2":
            write = "ctranslate2_folder.write_ctranslate2"
            return self._converted(f"ctranslate2-{entry.weights}", write, entry.weights)
        return self.folder

    def _converted(self, name: str, write: str, weights: str) -> Path:
        target = self.folder.parent / f"{self.folder.name}.{name}"
        if not target.exists():
            aside = _aside(target)
            in_child(self.log, write, self.folder, aside, weights)
            aside.rename(target)
        return target


def open_model(source: str, cache: Path, log: Path) -> BenchModel:
    """Make or find a model: a name of SHAPES or GPTJ_SHAPES, an embedded one, a folder or a hub id.

    Raises ChildFailed with what is wrong, and ValueError for a folder whose config.json is missing or broken.
    """
    folder = cache / source.strip("/").replace("/", "--")
    if not folder.exists():
        aside = _aside(folder)
        if source in SHAPES:
            in_child(log, "random_gpt2.write_random_gpt2", aside, SHAPES[source])
        elif source in GPTJ_SHAPES:
            in_child(log, "random_gptj.write_random_gptj", aside, GPTJ_SHAPES[source])
        elif (found := EMBEDDED / source).is_dir() or (found := Path(source).expanduser()).is_dir():
            link_checkpoint(found, aside)
        else:
            link_checkpoint(in_child(log, "models.fetched", source), aside)
        aside.rename(folder)
    return BenchModel(Path(source).name, folder, log)


def fetched(source: str) -> Path:
    """Return the folder of a hub id. Raises CheckpointError. Loads torch: call it in a child process."""
    from model_service.models.loading import find_folder

    return find_folder(source)


def link_checkpoint(found: Path, target: Path) -> None:
    """Link a checkpoint's files into a new folder, with a config.json that ends no text. Raises ValueError."""
    if not (found / "config.json").exists():
        raise ValueError(f"{found} has no config.json: it is no checkpoint")
    config = json.loads((found / "config.json").read_text(encoding="utf-8"))
    target.mkdir(parents=True)
    for path in found.iterdir():
        if path.suffix in (".safetensors", ".json", ".txt") and path.name != "config.json":
            (target / path.name).symlink_to(path.resolve())
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    kept = {EOS_KEY: config["vocab_size"] - 1 if eos is None else eos}
    (target / "config.json").write_text(json.dumps({**config, **kept, "eos_token_id": NO_EOS}))


def _aside(target: Path) -> Path:
    """Return where to write before it is renamed; what an interrupted call left there goes."""
    aside = target.with_name(f"{target.name}.tmp")
    if aside.is_dir():
        shutil.rmtree(aside)
    return aside
