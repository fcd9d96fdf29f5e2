"""What happened to the models so far, counted for the metrics. No torch here."""

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Of one model, since the start."""

    loads: int = 0
    load_s: float = 0.0
    failures: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts by model."""

    models: defaultdict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))

    def loaded(self, model_id: str, took_s: float) -> None:
        """Count a load that ended well."""
        self.models[model_id].loads += 1
        self.models[model_id].load_s += took_s

    def failed(self, model_id: str) -> None:
        """Count a load that failed."""
        self.models[model_id].failures += 1

    def evicted(self, model_id: str) -> None:
        """Count a model that left to make room."""
        self.models[model_id].evictions += 1
