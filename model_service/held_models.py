"""Which models there are to serve: those of the settings, or the embedded ones, and those that were trained here."""

from pathlib import Path

from model_service.config import CommonSettings, ModelSettings
from model_service.training import registry

EMBEDDED = Path(__file__).parent / "embedded"
EMBEDDED_MODELS = (
    ModelSettings(name="jokes-mini", source=str(EMBEDDED / "jokes-mini"), task="generate"),
    ModelSettings(name="sentiment-mini", source=str(EMBEDDED / "sentiment-mini"), task="classify"),
)


def needed_models(settings: CommonSettings) -> tuple[ModelSettings, ...]:
    """Return the models of the settings; none there: the embedded ones."""
    return settings.service.models or EMBEDDED_MODELS


def tuned_models(models: Path) -> tuple[ModelSettings, ...]:
    """Return the finished models that were trained here, oldest first. models: the folder they are published in."""
    return tuple(
        ModelSettings(name=tuned.id, source=str(tuned.folder), task=registry.task_of(tuned.manifest))
        for tuned in registry.finished(models)
    )
