"""The one place that turns errors into answers: `{"error": {"message", "type", "param", "code"}}`, OpenAI's shape.

FastAPI's own 422 becomes a 400 that names the parameter and its limit. What was sent is never repeated,
since it may be anything: half a surrogate pair, a secret, a megabyte.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model_service.errors import InternalError, ServiceError

log = logging.getLogger(__name__)

MAX_NAME_CHARS = 64  # of an unknown field, which is named but is the sender's

Problem = Mapping[str, Any]  # one entry of pydantic's list
SENTENCES: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "missing": lambda name, ctx: f"{name} is required.",
    "extra_forbidden": lambda name, ctx: f"There is no parameter {name!a} here.",
    "greater_than_equal": lambda name, ctx: f"{name} must be at least {ctx['ge']}.",
    "greater_than": lambda name, ctx: f"{name} must be above {ctx['gt']}.",
    "less_than_equal": lambda name, ctx: f"{name} must be at most {ctx['le']}.",
    "less_than": lambda name, ctx: f"{name} must be below {ctx['lt']}.",
    "int_type": lambda name, ctx: f"{name} must be a whole number.",
    "int_from_float": lambda name, ctx: f"{name} must be a whole number.",
    "float_type": lambda name, ctx: f"{name} must be a number.",
    "finite_number": lambda name, ctx: f"{name} must be a finite number.",
    "bool_type": lambda name, ctx: f"{name} must be true or false.",
    "string_type": lambda name, ctx: f"{name} must be a text.",
    "string_unicode": lambda name, ctx: f"{name} is not valid Unicode.",
    "string_too_short": lambda name, ctx: f"{name} needs at least {ctx['min_length']} characters.",
    "string_too_long": lambda name, ctx: f"{name} may have at most {ctx['max_length']} characters.",
    "list_type": lambda name, ctx: f"{name} must be a list.",
    "dict_type": lambda name, ctx: f"{name} must be an object.",
    "model_type": lambda name, ctx: f"{name} must be an object.",
    "literal_error": lambda name, ctx: f"{name} must be {ctx['expected']}.",
    "value_error": lambda name, ctx: f"{name}: {ctx['error']}",
}
NOT_JSON = "The body must be a JSON object, sent with Content-Type: application/json."
HTTP_SENTENCES = {
    400: "The body could not be read.",
    404: "There is nothing at this address. /openapi.json lists what there is.",
    405: "This address does not take this method; the Allow header says which it takes.",
}


class Refused(ServiceError):
    """What the web framework refused, in our shape."""

    type = "invalid_request_error"

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str, headers: Any = None) -> None:
        super().__init__(message, param=param, code=code)
        self.http_status, self._headers = status, dict(headers or {})

    def headers(self) -> dict[str, str]:
        """Return the framework's headers, like Allow."""
        return self._headers


def install(app: FastAPI) -> None:
    """Let every failure of the app leave as an OpenAI error."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


def error_json(error: ServiceError) -> bytes:
    """Return the error's JSON; plain ASCII, so that no text in it can break it."""
    return json.dumps(error.body(), separators=(",", ":")).encode()


def error_response(error: ServiceError) -> Response:
    """Return the error as an answer."""
    status = error.http_status if isinstance(error, Refused) else error.status
    return Response(error_json(error), status, error.headers(), media_type="application/json")


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(refusal(error.errors()[0]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = HTTP_SENTENCES.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return error_response(Refused(error.status_code, message, code=code, headers=error.headers))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path)  # uvicorn logs the traceback
    return error_response(InternalError())


def refusal(problem: Problem) -> Refused:
    """Turn one of pydantic's problems into a sentence; see the module for what it must not say."""
    kind, context = str(problem["type"]), problem.get("ctx") or {}
    place = [str(part) for part in problem["loc"][1:]]
    param = ".".join(place)[:MAX_NAME_CHARS].encode("ascii", "replace").decode()
    if kind == "json_invalid":
        message = f"The body is not valid JSON at character {problem['loc'][-1]}: {context.get('error')}."
        return Refused(400, message, code="invalid_json")
    if not param and kind != "wrong":
        return Refused(400, NOT_JSON, code="invalid_json")
    if kind == "wrong":
        message = str(context["message"])
        param = param or str(context["param"])
        message = message[0].upper() + message[1:] + "." if param in message else f"{param}: {message}."
    else:
        message = SENTENCES[kind](param, context) if kind in SENTENCES else f"{param} is not valid."
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_parameter"}.get(kind, "invalid_value")
    return Refused(400, message, param=param, code=code)
