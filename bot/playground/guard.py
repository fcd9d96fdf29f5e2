"""What stands in front of every route: only this machine, only our own page, Discord's errors, rate limits.

A page from elsewhere that the same browser shows must not read the session. It cannot pretend to be us: its
Origin is its own, and a name it points at 127.0.0.1 arrives here as a foreign Host.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from bot.playground.errors import ApiError
from bot.playground.requests import answer, refused

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK_NAMES = {"127.0.0.1", "localhost", "[::1]"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@dataclass(slots=True)
class RateLimit:
    """The next `count` requests of the bot are answered with 429; 0 is off."""

    count: int = 0
    retry_after_s: float = 0.0

    def take(self, request: web.Request) -> web.Response | None:
        """The refusal, if this request is one of those."""
        is_bot = request.headers.get("Authorization", "").startswith("Bot ") or "/webhooks/" in request.path
        if self.count <= 0 or not is_bot:
            return None
        self.count -= 1
        body = {"message": "You are being rate limited.", "retry_after": self.retry_after_s, "global": False}
        response = answer(body, 429)
        response.headers["Retry-After"] = str(self.retry_after_s)
        response.headers["Via"] = "1.1 playground"  # discord.py takes a 429 without it for a ban
        response.headers["X-RateLimit-Scope"] = "user"
        return response


class Guard:
    """The middleware of the playground."""

    def __init__(self, rate_limit: RateLimit) -> None:
        self._rate_limit = rate_limit

    def refusal(self, request: web.Request) -> web.Response | None:
        """Why this request may not come in, or None."""
        host = request.host
        if host.rsplit(":", 1)[0] not in LOOPBACK_NAMES and host not in LOOPBACK_NAMES:
            return answer(
                {"message": f"The playground answers to 127.0.0.1 and localhost, not to {host}.", "code": 0}, 421
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            return answer({"message": "Requests from other pages are refused.", "code": 0}, 403)
        navigates = request.headers.get("Sec-Fetch-Mode") == "navigate"
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not (
            navigates and request.path == "/"
        ):
            return answer({"message": "Requests from other pages are refused.", "code": 0}, 403)
        return None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, limit, or let through and put errors into Discord's words."""
        refusal = self.refusal(request) or self._rate_limit.take(request)
        response = await self._handled(request, handler) if refusal is None else refusal
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return refused(error)
        except web.HTTPException as error:
            return answer({"message": f"{error.status}: {error.reason}", "code": 0}, error.status)
        except Exception:
            log.exception("the playground failed at %s %s", request.method, request.path)
            return answer({"message": "500: Internal Server Error", "code": 0}, 500)
