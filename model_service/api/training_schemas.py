"""The messages of `/v1/fine_tuning/jobs` on the wire. No torch here."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from model_service.api.checks import check_text, wrong
from model_service.api.schemas import Name, WireRequest
from model_service.training.orders import Order
from model_service.training.recipe import Adapter, Auto

MAX_METADATA = 16
NOT_YET = {"classify": "train a classifier", "dpo": "learn from preferences"}


def _auto_or_whole(high: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= high
        if value != "auto" and not whole:
            raise wrong(f'it must be "auto" or a whole number from 1 to {high}')
        return value

    return BeforeValidator(check)


def _check_multiplier(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 100
    if value != "auto" and not number:
        raise wrong('it must be "auto" or a number above 0, at most 100')
    return value if value == "auto" else float(value)


def _check_suffix(suffix: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", suffix):
        raise wrong("suffix must be 1 to 64 letters, digits, - or _", "suffix")
    return suffix


def _check_metadata(metadata: Any) -> Any:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise wrong("metadata must be an object of texts", "metadata")
    if len(metadata) > MAX_METADATA or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
        raise wrong(f"metadata may have {MAX_METADATA} entries, keys of 64 and values of 512 characters", "metadata")
    return {check_text(k): check_text(v) for k, v in metadata.items()}


class Hyperparameters(WireRequest):
    """How long and how strongly to train; `auto` is made for a few hundred jokes."""

    n_epochs: Annotated[int | Auto, _auto_or_whole(100)] = "auto"
    batch_size: Annotated[int | Auto, _auto_or_whole(256)] = "auto"
    learning_rate_multiplier: Annotated[float | Auto, BeforeValidator(_check_multiplier)] = "auto"


class Supervised(WireRequest):
    """`method.supervised`."""

    adapter: Adapter = "lora"
    hyperparameters: Hyperparameters | None = None


class Method(WireRequest):
    """`method`. The other types are named in the API and refused until they work."""

    type: Literal["supervised", "classify", "dpo"] = "supervised"
    supervised: Supervised = Supervised()
    classify: dict[str, Any] | None = None
    dpo: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_supervised(self) -> Self:
        if self.type != "supervised":
            raise wrong(
                f"this service cannot {NOT_YET[self.type]} yet; method.type must be supervised",
                "method.type",
            )
        if self.classify is not None or self.dpo is not None:
            raise wrong("the settings of method do not belong to its type, which is supervised", "method")
        return self


class JobRequest(WireRequest):
    """`POST /v1/fine_tuning/jobs`."""

    model: Name
    training_file: Name
    validation_file: Name | None = None
    suffix: Annotated[str | None, AfterValidator(_check_suffix)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    hyperparameters: Hyperparameters | None = None
    method: Method = Method()
    metadata: Annotated[dict[str, str], BeforeValidator(_check_metadata), Field(default_factory=dict)]

    @model_validator(mode="after")
    def _hyperparameters_stand_once(self) -> Self:
        if self.hyperparameters is not None and self.method.supervised.hyperparameters is not None:
            raise wrong("give hyperparameters once: at the top or under method.supervised", "hyperparameters")
        return self

    def order(self) -> Order:
        """Return what the jobs need of it."""
        chosen = self.method.supervised.hyperparameters or self.hyperparameters or Hyperparameters()
        return Order(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            suffix=self.suffix or "",
            seed=self.seed,
            adapter=self.method.supervised.adapter,
            n_epochs=chosen.n_epochs,
            batch_size=chosen.batch_size,
            learning_rate_multiplier=chosen.learning_rate_multiplier,
            metadata=self.metadata,
        )
