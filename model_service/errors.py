"""Errors the service answers with. No torch here; every layer may raise these.

ServiceError                 carries message, type, code, param and the HTTP status
├── RequestRefused   400     a field is wrong; `param` names it, the message says the limit
├── PromptTooLong    400     prompt and answer do not fit the model's context; carries the numbers
├── Unauthorized     401     over TCP the bearer key is missing or wrong
├── NotFound         404     no such file, job or page
├── ModelNotFound    404     no such model; the message lists those there are
├── TooSlow          408     the body stopped coming
├── Conflict         409     the thing exists but is in a state that forbids this
├── TooLarge         413     the body or file is over its limit
├── QueueFull        429     too many requests wait; `retry_after_s` says when to come back
├── ModelLoading     503     the model is not ready yet; `retry_after_s` says when to come back
├── ModelNoRoom      503     the model does not fit beside those that stay; the message has the numbers
├── ModelFailed      503     the model could not be loaded; the message says why
├── EngineDead       503     the model's engine has stopped or been closed
├── DeadlinePassed   504     the answer took longer than `service.answer_limit_s`
└── InternalError    500     our own bug; the log has it

The API's exception handler is the one place that turns them into `{"error": {...}}`.
"""

import math
from typing import ClassVar


class ServiceError(Exception):
    """The service could not do what was asked; `str(error)` is a sentence for people."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    retry_after_s: float | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the answer, in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, at least 1, where it makes sense to come back."""
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class RequestRefused(ServiceError):
    """A field of the request is wrong; `param` names it."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class PromptTooLong(RequestRefused):
    """The prompt and the asked-for answer do not fit the context; nothing is cut silently."""

    default_code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, max_tokens: int, context_len: int) -> None:
        super().__init__(
            f"This model's context is {context_len} tokens, but the prompt has {prompt_tokens} and max_tokens asks for"
            f" {max_tokens} more ({prompt_tokens + max_tokens} in all). Shorten the prompt or lower max_tokens.",
            param="prompt",
        )
        self.prompt_tokens, self.max_tokens, self.context_len = prompt_tokens, max_tokens, context_len


class Unauthorized(ServiceError):
    """The bearer key is missing or wrong."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """What HTTP asks of a 401: which scheme to use."""
        return {"WWW-Authenticate": "Bearer"}


class NotFound(ServiceError):
    """There is no such thing."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    """There is no model of that name."""

    default_code = "model_not_found"

    def __init__(self, model_id: str, known: list[str] | None = None) -> None:
        there = f" Models here: {', '.join(known)}." if known else ""
        super().__init__(f"There is no model {model_id!a}.{there}", param="model")
        self.model_id = model_id


class Conflict(ServiceError):
    """The thing exists, but its state forbids what was asked."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class TooSlow(ServiceError):
    """The rest of the body did not come in time."""

    status = 408
    type = "invalid_request_error"
    default_code = "timeout"


class TooLarge(ServiceError):
    """The body or file is over its limit; the message says the limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "too_large"


class QueueFull(ServiceError):
    """As many requests wait as may wait."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__("Too many requests are waiting for this model. Try again in a moment.")
        self.retry_after_s = retry_after_s


class ModelLoading(ServiceError):
    """The model is known but does not answer yet.

    percent: how much of it is there; None if that is not known, or others are loaded first. waited_s: the passed limit.
    """

    status = 503
    default_code = "model_loading"

    def __init__(
        self, model_id: str, retry_after_s: float = 2.0, *, percent: int | None = None, waited_s: float | None = None
    ) -> None:
        doing = "is still loading" if percent is None else f"is still loading ({percent} %)"
        if waited_s is not None:
            doing = doing if percent is not None else "still waits for its turn to be loaded"
            doing += f" after {waited_s:g} seconds, which is the limit here"
        super().__init__(f"The model {model_id!a} {doing}. Try again in a moment.", param="model")
        self.retry_after_s = retry_after_s


class ModelNoRoom(ServiceError):
    """The model does not fit beside those that cannot leave now; `reason` is a sentence with the numbers."""

    status = 503
    default_code = "no_room"

    def __init__(self, model_id: str, reason: str, retry_after_s: float = 10.0) -> None:
        super().__init__(f"There is no room for the model {model_id!a} now: {reason}", param="model")
        self.retry_after_s = retry_after_s


class ModelFailed(ServiceError):
    """The model is configured but could not be loaded. retry_after_s: when it may go better; None for good."""

    status = 503
    default_code = "model_failed"

    def __init__(self, model_id: str, reason: str, retry_after_s: float | None = None) -> None:
        again = "" if retry_after_s is None else f" It is tried again if somebody asks in {math.ceil(retry_after_s)} s."
        super().__init__(f"The model {model_id!a} could not be loaded: {reason}{again}", param="model")
        self.reason, self.retry_after_s = reason, retry_after_s


class EngineDead(ServiceError):
    """The model's engine stopped; every stream it had ends with this, and new ones are refused."""

    status = 503
    default_code = "engine_dead"
    retry_after_s = 2.0  # it is loaded again

    def __init__(self, message: str = "The model stopped while it was answering. Try again in a moment.") -> None:
        super().__init__(message)


class DeadlinePassed(ServiceError):
    """The answer's time was over, while it waited or while it grew."""

    status = 504
    default_code = "deadline_passed"

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"The answer was not complete after {limit_s:g} seconds, which is the limit here, so it was ended."
            " Ask for less, or try again when fewer are waiting."
        )


class InternalError(ServiceError):
    """Something broke that should not have; the log says what."""

    default_code = "internal_error"

    def __init__(self) -> None:
        super().__init__("Something went wrong inside the model service; its log says what.")
