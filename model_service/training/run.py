"""What every training of a job has: its folder, what was asked of it, and the loop that learns. See finetune.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_service.training.checkpoints import Checkpoints
from model_service.training.folder import JobFolder
from model_service.training.loop import Loop
from model_service.training.objective import Objective
from model_service.training.parallel import Group
from model_service.training.progress import Progress
from model_service.training.recipe import Precision, Recipe


class Run:
    """One job in its folder. `check` is called often and raises Interrupted when the job must stop."""

    def __init__(
        self,
        folder: JobFolder,
        models: Path,
        *,
        check: Callable[[], None],
        checkpoint_every_s: float = 30.0,
        group: Group | None = None,
    ) -> None:
        self._group = group or Group()
        self._folder, self._models, self._check = folder, models, check
        self._checkpoint_every_s = checkpoint_every_s
        self._job = folder.job
        self._recipe = Recipe(**self._job["recipe"])
        self._progress = Progress(folder, silent=not self._group.leads)
        self._computes: Precision = "float32"  # until the base is open

    def _loop(self, model: Any, objective: Objective) -> Loop:
        """Return what trains a model towards an objective, from the newest checkpoint of the job if there is one."""
        return Loop(
            model,
            self._recipe,
            objective,
            Checkpoints(self._folder.checkpoints),
            self._progress,
            check=self._check,
            checkpoint_every_s=self._checkpoint_every_s,
            computes=self._computes,
            group=self._group,
        )
