"""The messages between the bot and the model service, as the bot reads and writes them. Nothing here waits.

What the service refuses becomes one of the `RequestFailed` errors (`refusal`, `failure`); its server-sent lines become
`Update`s (`waiting`, `chunk`), its list of models an `Inventory`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.errors import (
    BotError,
    ModelFailed,
    ModelLoading,
    ModelMissing,
    QueueFull,
    RequestFailed,
    ServiceUnavailable,
    TextTooLong,
    TooFewJokes,
)

Json = dict[str, Any]

_LOADING = re.compile(r"(.+?)\s+(\d{1,3})(?:\.\d+)?\s*%")


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One text to continue; the fields are those of `POST /v1/completions`."""

    model: str
    prompt: str
    max_tokens: int = 100
    temperature: float = 0.8
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None
    user: str = ""  # see `user_key`

    def body(self) -> Json:
        """The JSON to send; what is not set is left to the service."""
        body: Json = {
            "model": self.model,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stream": True,
        }
        optional = {"stop": list(self.stop), "seed": self.seed, "user": self.user}
        return body | {name: value for name, value in optional.items() if value not in (None, [], "")}


def user_key(guild_id: int | None, user_id: int) -> str:
    """Say who asks: the service shares its time between servers first, then between the people of each."""
    return str(user_id) if guild_id is None else f"{guild_id}:{user_id}"


@dataclass(frozen=True, slots=True)
class Loading:
    """The model is being loaded; its name and how far it is, where the service says so."""

    model: str = ""
    percent: int | None = None

    @property
    def words(self) -> str:
        """Say so: "Loading gpt2-xl … 43 %"."""
        how_far = "" if self.percent is None else f" {self.percent} %"
        return f"Loading {self.model or 'the model'} …{how_far}"


@dataclass(frozen=True, slots=True)
class Update:
    """What is new since the last read: more text, or a new place in the queue (None once it runs)."""

    text: str = ""
    position: int | None = None
    eta_s: float | None = None
    loading: Loading | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device of the service; used_bytes is all that is taken there, by whomever."""

    name: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The models of a service, each as its card, and its devices; other servers of this API name no devices."""

    models: tuple[Json, ...]
    devices: tuple[DeviceMemory, ...] = ()


@dataclass(frozen=True, slots=True)
class Mood:
    """One classified text; `probs` is by label id, and `labels` names them where the service says so."""

    label: str
    probs: tuple[float, ...]
    labels: tuple[str, ...] = ()


def inventory(answer: Json) -> Inventory:
    """Read `GET /v1/models`; raises ValueError or KeyError for what is not one."""
    devices = answer.get("devices") or []
    memories = (DeviceMemory(str(d["name"]), int(d["total_bytes"]), int(d["used_bytes"])) for d in devices)
    return Inventory(tuple(answer["data"]), tuple(memories))


def waiting(comment: str) -> Update:
    """Read `queue position=3 eta_s=4.2` or `loading gpt2-xl 43 %`; anything else is a sign of life."""
    word, _, rest = comment.partition(" ")
    if word == "loading":
        found = _LOADING.fullmatch(rest.strip())
        return Update(loading=Loading(found[1], int(found[2])) if found else Loading(rest.strip()))
    fields = dict(part.split("=", 1) for part in rest.split() if "=" in part)
    if word != "queue" or not fields.get("position", "").isdigit():
        return Update()
    try:
        eta_s = float(fields["eta_s"])
    except (KeyError, ValueError):
        eta_s = None
    return Update(position=int(fields["position"]), eta_s=eta_s)


def chunk(payload: str) -> Update:
    """Read one SSE chunk; raises the error it carries."""
    message = json.loads(payload)
    if "error" in message:
        raise failure(0, message["error"], None)
    choices = message.get("choices") or [{}]
    return Update(str(choices[0].get("text") or ""), finish_reason=choices[0].get("finish_reason"))


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> BotError:
    """Read OpenAI's error JSON; what is not that is named by its status."""
    retry_after = headers.get("Retry-After", "")
    retry_after_s = float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = {}
    return failure(status, error if isinstance(error, dict) else {}, retry_after_s)


def failure(status: int, error: Json, retry_after_s: float | None) -> BotError:
    """Choose the error of ours that says what people need to know."""
    message = str(error.get("message") or f"The model service answered with an error (status {status}).")
    code, param = str(error.get("code") or ""), str(error.get("param") or "")
    if code == "queue_full" or status == 429:
        return QueueFull(retry_after_s or 1.0)
    if code == "model_not_found":
        return ModelMissing(message)
    if code == "model_loading":
        return ModelLoading(message, retry_after_s)
    if code in ("model_failed", "no_room"):
        return ModelFailed(message, code)
    if code == "context_length_exceeded":
        return TextTooLong(message.replace("max_tokens", "tokens"))
    if code == "too_few_examples":
        return TooFewJokes(message)
    if code == "engine_dead" or status == 503:
        return ServiceUnavailable(message)
    return RequestFailed(message, code=code, status=status, param=param)
