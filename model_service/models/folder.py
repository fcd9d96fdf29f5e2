"""Finds the folder of a checkpoint (a path, or a hub id) and reads its JSON. No torch here.

A hub repository is downloaded once, into the hub's own cache; after that it is found there without a network.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from model_service.models.shape import Shape, shape_of

TEXTS = ("*.json", "merges.txt")  # config, tokenizer, index
SAFETENSORS = (*TEXTS, "*.safetensors")  # what is fetched of a hub repository to load it
PICKLES = (*TEXTS, "pytorch_model*.bin")  # what is fetched of it to convert it
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what would help."""


def find_folder(source: str, wanted: Sequence[str] = SAFETENSORS) -> Path:
    """Return the folder of a checkpoint; a hub id is downloaded once. Blocks. Raises CheckpointError."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source} is neither a folder nor a hub id like openai-community/gpt2.")
    return _fetched(source, wanted)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises CheckpointError, also for half a download."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG}: it is no checkpoint, or half a download. Fetch the rest, or delete the folder."
        )
    return read_json(folder / CONFIG)


def read_shape(config: Mapping[str, Any], source: str) -> Shape:
    """Read the sizes in a config.json; the source is named in what is raised. Raises CheckpointError."""
    try:
        return shape_of(config)
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error.args[0]}.") from error
    except ValueError as error:
        raise CheckpointError(f"{source} cannot run: {error}.") from error


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT, which runs on another model, and not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any(folder.glob("model*.safetensors*"))


def pickles(folder: Path) -> list[Path]:
    """Return the weights of a folder that are pickles, in order; they are never loaded, only converted."""
    return sorted(path for path in folder.glob("pytorch_model*.bin") if path.is_file())


def convert_hint(source: object) -> str:
    """Say how weights that are pickles become ones that can be loaded."""
    return f"only safetensors are loaded. Convert them once: punchline convert {source} FOLDER"


def _fetched(hub_id: str, wanted: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download  # a second of imports that folders do not need
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(wanted)))
    except LocalEntryNotFoundError as error:  # no network, and not in the cache
        raise CheckpointError(
            f"{hub_id} is not on this machine, and the hub cannot be reached to download it. Check the network"
            " (and that HF_HUB_OFFLINE is not set), or copy the model here and give its folder."
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(f"{hub_id} is gated: accept its terms on the hub, and set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"There is no model {hub_id} on the hub, or it is private. Check the id; for a private one set HF_TOKEN."
        ) from error
    except Exception as error:  # the hub client raises many kinds, all of them "not there"
        raise CheckpointError(f"{hub_id} could not be fetched from the hub: {str(error).splitlines()[0]}") from error
    if wanted is SAFETENSORS and not any(folder.glob("*.safetensors")):
        raise CheckpointError(_without_safetensors(hub_id))
    return folder


def _without_safetensors(hub_id: str) -> str:
    """Say what a hub repository holds instead. Asks the hub, if it answers."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(hub_id)
    except Exception:  # offline: what was downloaded before is all there is to go by
        names = []
    if bins := [name for name in names if fnmatch(name, "pytorch_model*.bin")]:
        return f"{hub_id} holds {', '.join(bins)}, but {convert_hint(hub_id)}"
    return f"{hub_id} holds no safetensors: it cannot be loaded."
