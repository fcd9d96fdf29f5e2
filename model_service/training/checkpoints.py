"""Keeps a run's checkpoints: written aside, fsynced, renamed, pruned. safetensors only.

    checkpoints/step-000040/weights.safetensors  optimizer.safetensors  state.json    the two newest
    checkpoints/best-000030.safetensors                                    what a kept checkpoint calls best

A folder that has its name is whole; anything still called `tmp-…` was being written when the power went.
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from model_service.training import durable
from model_service.training.folder import KEPT_CHECKPOINTS

Weights = dict[str, Tensor]


class Checkpoints:
    """The checkpoints folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("tmp-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def save(self, step: int, weights: Weights, optimizer: Weights, state: dict[str, Any]) -> None:
        """Write everything a resume needs; `state["best_step"]` names the best weights it goes with.

        optimizer: its tensors, by any names.
        """
        aside = self.folder / f"tmp-{step:06d}"
        aside.mkdir()
        save_file(_plain(weights), aside / "weights.safetensors")
        save_file(_plain(optimizer), aside / "optimizer.safetensors")
        durable.write_json(aside / "state.json", {"step": step, **state})
        durable.publish(aside, self.folder / f"step-{step:06d}")
        self._prune()

    def save_best(self, step: int, weights: Weights) -> None:
        """Keep the weights of the best step so far."""
        aside = self.folder / f"tmp-best-{step:06d}"
        save_file(_plain(weights), aside)
        durable.publish(aside, self.folder / f"best-{step:06d}.safetensors")

    def load_best(self, step: int) -> Weights:
        """Read what `save_best` kept."""
        weights: Weights = load_file(self.folder / f"best-{step:06d}.safetensors")
        return weights

    def newest(self) -> tuple[Weights, Weights, dict[str, Any]] | None:
        """Read the newest whole checkpoint: weights, optimizer, state; None before the first."""
        steps = sorted(self.folder.glob("step-*"))
        if not steps:
            return None
        state = durable.read_json(steps[-1] / "state.json")
        assert state is not None
        return load_file(steps[-1] / "weights.safetensors"), load_file(steps[-1] / "optimizer.safetensors"), state

    def _prune(self) -> None:
        steps = sorted(self.folder.glob("step-*"))
        for old in steps[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)
        states = [durable.read_json(step / "state.json") or {} for step in steps[-KEPT_CHECKPOINTS:]]
        wanted = {
            f"best-{state['best_step']:06d}.safetensors" for state in states if state.get("best_step") is not None
        }
        for best in self.folder.glob("best-*"):
            if best.name not in wanted:
                best.unlink()


def _plain(weights: Weights) -> Weights:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
