"""What every request passes before the routes: counting, the key, the size of the body. Plain ASGI, no buffering."""

import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_service.api.failures import error_response
from model_service.api.metrics import Metrics
from model_service.errors import TooLarge, Unauthorized

FREE_OF_KEY = ("/health/live", "/health/ready")
NO_ROUTE = "none"  # one label for whatever address somebody tries


class CountRequests:
    """Counts each request by method, route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at the status that goes out."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 500  # until something else is sent

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._metrics.requests.labels(scope["method"] if route != NO_ROUTE else "", route, str(status)).inc()


class RequireKey:
    """Asks for `Authorization: Bearer <key>`, except for health."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = b"Bearer " + key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401."""
        if scope["type"] == "http" and scope["path"] not in FREE_OF_KEY:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refused = Unauthorized("This service needs its key: send it as Authorization: Bearer <key>.")
                return await error_response(refused)(scope, receive, send)
        await self._app(scope, receive, send)


class LimitBody:
    """Refuses bodies over a limit, by their announced length or as soon as they pass it."""

    def __init__(self, app: ASGIApp, limit_bytes: int, limits_by_path: dict[str, int]) -> None:
        self._app, self._limit, self._limits = app, limit_bytes, limits_by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 413."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._limits.get(scope["path"], self._limit)
        refused = error_response(TooLarge(f"The body may have at most {limit} bytes."))
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if int(announced) > limit:
            return await refused(scope, receive, send)
        seen, over = 0, False

        async def count(original: Receive = receive) -> Message:
            nonlocal seen, over
            message = await original()
            seen += len(message.get("body", b""))
            if seen > limit and not over:
                over = True
                await refused(scope, original, send)
            return {"type": "http.disconnect"} if over else message

        async def unless_refused(message: Message) -> None:
            if not over:
                await send(message)

        await self._app(scope, count, unless_refused)
