"""The messages of `/v1/fine_tuning/jobs` on the wire. No torch here."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from model_service.api.checks import check_text, wrong
from model_service.api.schemas import Name, WireRequest
from model_service.training.orders import Order
from model_service.training.recipe import Adapter, Auto

MAX_METADATA = 16


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


def _check_beta(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 2
    if value != "auto" and not number:
        raise wrong('it must be "auto" or a number above 0, at most 2')
    return value if value == "auto" else float(value)


def _check_switch(value: Any) -> Any:
    if not isinstance(value, bool):
        raise wrong("it must be true or false")
    return value


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
    gradient_checkpointing: Annotated[bool, BeforeValidator(_check_switch)] = False


class Trained(WireRequest):
    """`method.supervised` and `method.classify`."""

    adapter: Adapter = "lora"
    hyperparameters: Hyperparameters | None = None


class PreferenceHyperparameters(Hyperparameters):
    """The same, and how dear it is to move away from the model it starts from."""

    beta: Annotated[float | Auto, BeforeValidator(_check_beta)] = "auto"


class TrainedOnPreferences(WireRequest):
    """`method.dpo`."""

    adapter: Adapter = "lora"
    hyperparameters: PreferenceHyperparameters | None = None


class MethodOf(WireRequest):
    """`method`."""

    type: Literal["supervised", "classify", "dpo"] = "supervised"
    supervised: Trained | None = None
    classify: Trained | None = None
    dpo: TrainedOnPreferences | None = None

    @model_validator(mode="after")
    def _has_the_settings_of_its_type(self) -> Self:
        others = {"supervised": self.supervised, "classify": self.classify, "dpo": self.dpo}
        if any(given is not None for name, given in others.items() if name != self.type):
            raise wrong(f"the settings of method do not belong to its type, which is {self.type}", "method")
        return self

    @property
    def chosen(self) -> Trained | TrainedOnPreferences:
        """The settings of its type."""
        given = {"supervised": self.supervised, "classify": self.classify, "dpo": self.dpo}
        return given[self.type] or Trained()


class JobRequest(WireRequest):
    """`POST /v1/fine_tuning/jobs`."""

    model: Name
    training_file: Name
    validation_file: Name | None = None
    suffix: Annotated[str | None, AfterValidator(_check_suffix)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    hyperparameters: Hyperparameters | None = None
    method: MethodOf = MethodOf()
    metadata: Annotated[dict[str, str], BeforeValidator(_check_metadata), Field(default_factory=dict)]

    @model_validator(mode="after")
    def _hyperparameters_stand_once(self) -> Self:
        if self.hyperparameters is not None and self.method.chosen.hyperparameters is not None:
            where = f"method.{self.method.type}"
            raise wrong(f"give hyperparameters once: at the top or under {where}", "hyperparameters")
        return self

    def order(self) -> Order:
        """Return what the jobs need of it."""
        chosen = self.method.chosen.hyperparameters or self.hyperparameters or Hyperparameters()
        return Order(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            suffix=self.suffix or "",
            seed=self.seed,
            method=self.method.type,
            adapter=self.method.chosen.adapter,
            n_epochs=chosen.n_epochs,
            batch_size=chosen.batch_size,
            learning_rate_multiplier=chosen.learning_rate_multiplier,
            gradient_checkpointing=chosen.gradient_checkpointing,
            beta=chosen.beta if isinstance(chosen, PreferenceHyperparameters) else "auto",
            metadata=self.metadata,
        )
