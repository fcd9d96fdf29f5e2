"""Errors the bot shows to people. `str(error)` is a plain sentence: what went wrong, and what to do.

BotError
├── ServiceUnavailable        no connection to the model service, or it broke mid-answer; try again soon
├── TooSlow                   a wait reached its limit; carries `limit_s`
├── RequestFailed             the service said no; carries its code, HTTP status and param
│   ├── QueueFull             too many people wait; carries `retry_after_s`
│   ├── ModelLoading          the model does not answer yet; carries `retry_after_s`, if the service says so
│   ├── ModelFailed           the model could not be loaded, or there is no room for it; the sentence says why
│   ├── ModelMissing          the service has no such model (or no longer)
│   ├── TextTooLong           text and answer do not fit the model; the sentence has the numbers
│   └── TooFewJokes           not enough jokes to train on; the sentence has the numbers
├── StoreError                the joke collection refused or failed (drawn in `bot.store.errors`)
├── NotAllowed                this person may not do this; says who may
└── BadInput                  what was typed cannot work; says what can

Raised at the borders (`bot.service_client`) and in the cogs, turned into messages in one place, `bot.ui.failures`.
"""

import math


class BotError(Exception):
    """Something a person should be told; the message is the whole sentence."""


class ServiceUnavailable(BotError):
    """The model service cannot be reached, or the connection broke while it answered."""

    def __init__(self, message: str = "The model is offline right now. Try again in a minute.") -> None:
        super().__init__(message)


class TooSlow(BotError):
    """A wait reached its limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The model took longer than {limit_s:g} seconds, so I gave up. Try again in a minute.")
        self.limit_s = limit_s


class RequestFailed(BotError):
    """The service refused a request; `code` is its word for why, `status` the HTTP status (0: mid-stream)."""

    def __init__(self, message: str, *, code: str = "", status: int = 0, param: str = "") -> None:
        super().__init__(message)
        self.code, self.status, self.param = code, status, param


class QueueFull(RequestFailed):
    """As many requests wait as may wait."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"Too many people are asking right now. Try again in {seconds(retry_after_s)}.",
            code="queue_full",
            status=429,
        )
        self.retry_after_s = retry_after_s


class ModelLoading(RequestFailed):
    """The model will answer when it has finished loading; the service says how far it is."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        when = "a moment" if retry_after_s is None else seconds(retry_after_s)
        said = message.removesuffix("Try again in a moment.").rstrip()
        super().__init__(f"{said} Try again in {when}.", code="model_loading", status=503, param="model")
        self.retry_after_s = retry_after_s


class ModelFailed(RequestFailed):
    """The service cannot load the model, or has no room for it now, and says why; another one may answer."""

    def __init__(self, message: str, code: str = "model_failed") -> None:
        message = f"{message.rstrip('. ')}. `/models` shows the others."
        super().__init__(message, code=code, status=503, param="model")


class ModelMissing(RequestFailed):
    """The service has no model of that name."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="model_not_found", status=404, param="model")


class TextTooLong(RequestFailed):
    """Text and answer together do not fit the model."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="context_length_exceeded", status=400, param="prompt")


class TooFewJokes(RequestFailed):
    """The service will not train on so few jokes; its sentence has the numbers."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="too_few_examples", status=400)


class NotAllowed(BotError):
    """This person may not do this here."""

    def __init__(self, message: str = "Only moderators (people who may manage the server) can do that.") -> None:
        super().__init__(message)


class BadInput(BotError):
    """What was typed cannot work; the sentence says what can."""


def seconds(value: float) -> str:
    """Write a wait for people: "1 second", "12 seconds"."""
    count = max(1, math.ceil(value))
    return "1 second" if count == 1 else f"{count} seconds"
