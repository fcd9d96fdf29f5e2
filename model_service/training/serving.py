"""What training needs of the models that are being served: `model_service.placement.pool` has it. No torch here."""

from pathlib import Path
from typing import Protocol

from model_service.config import ModelSettings


class Held(Protocol):
    """What jobs need to know of a loaded model."""

    @property
    def task(self) -> str:
        """`generate` or `classify`."""


class Pool(Protocol):
    """What jobs need of the loaded models."""

    def find(self, model_id: str, /) -> Held:
        """Describe a model. Raises ModelNotFound."""

    def folder(self, model_id: str, /) -> Path:
        """Return where its files lie. Raises ModelNotFound, ModelLoading."""

    async def load(self, spec: ModelSettings, /) -> None:
        """Load a model beside the others. Raises ServiceError."""
