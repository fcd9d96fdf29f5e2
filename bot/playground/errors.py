"""Errors of the playground: one for the person who starts it, the others as Discord words them.

PlaygroundError          it cannot start; the sentence says why and what to do
ApiError                 Discord's JSON error: HTTP status, code, message
└── FormError            50035: which field broke which limit
"""

from typing import Any


class PlaygroundError(OSError):
    """The playground cannot start; keeps the number of the system's error."""

    def __str__(self) -> str:
        return str(self.strerror)


class ApiError(Exception):
    """An answer Discord would refuse a request with."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, Any]:
        """The JSON that goes over the wire."""
        return {"message": self.message, "code": self.code}


class FormError(ApiError):
    """400 with code 50035; `field` is a dotted path such as `embeds.0.title`."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(400, 50035, "Invalid Form Body")
        self.field = field
        self.problem = {"code": code, "message": message}

    def body(self) -> dict[str, Any]:
        """Discord nests the problem under the path of the field."""
        errors: dict[str, Any] = {"_errors": [self.problem]}
        for part in reversed(self.field.split(".")):
            errors = {part: errors}
        return {**super().body(), "errors": errors}


def unauthorized() -> ApiError:
    """401: no token, or one nobody has."""
    return ApiError(401, 0, "401: Unauthorized")


def unknown(what: str) -> ApiError:
    """404 for the named kind of thing."""
    codes = {
        "Channel": 10003,
        "Guild": 10004,
        "Member": 10007,
        "Message": 10008,
        "User": 10013,
        "Emoji": 10014,
        "Webhook": 10015,
        "interaction": 10062,
        "application command": 10063,
        "Application": 10002,
    }
    return ApiError(404, codes[what], f"Unknown {what}")


def missing_permissions() -> ApiError:
    """403: the caller may not do this here."""
    return ApiError(403, 50013, "Missing Permissions")


def missing_access() -> ApiError:
    """403: the caller cannot see this channel."""
    return ApiError(403, 50001, "Missing Access")
