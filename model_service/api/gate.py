"""What every request passes before the routes: counting, the key, the size of the body. Plain ASGI, no buffering."""

import asyncio
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_service.api.failures import error_response
from model_service.api.metrics import Metrics
from model_service.errors import ServiceError, TooLarge, TooSlow, Unauthorized

FREE_OF_KEY = ("/health/live", "/health/ready")
BODY_SILENCE_S = 30.0  # between two parts of a body
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
    """Refuses bodies over a limit, by their announced length or as soon as they pass it, and those that stall."""

    def __init__(self, app: ASGIApp, limit_bytes: int, limits_by_path: dict[str, int]) -> None:
        self._app, self._limit, self._limits = app, limit_bytes, limits_by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 413 or 408."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(self._limits.get(scope["path"], self._limit), scope, receive, send)
        if int(dict(scope["headers"]).get(b"content-length", b"0")) > body.limit_bytes:
            return await body.refuse(body.too_large())
        await self._app(scope, body.receive, body.send)


class _Body:
    """One request's body on its way in. Once it is refused, the app hears that the client left, and is not heard."""

    def __init__(self, limit_bytes: int, scope: Scope, receive: Receive, send: Send) -> None:
        self.limit_bytes = limit_bytes
        self._scope, self._receive, self._send = scope, receive, send
        self._seen_bytes, self._complete, self._refused = 0, False, False

    def too_large(self) -> TooLarge:
        return TooLarge(f"The body may have at most {self.limit_bytes} bytes.")

    async def refuse(self, error: ServiceError) -> None:
        self._refused = True
        await error_response(error)(self._scope, self._receive, self._send)

    async def receive(self) -> Message:
        """Return the next part; after the last one, wait for the client to leave, as long as it takes."""
        try:
            async with asyncio.timeout(None if self._complete else BODY_SILENCE_S):
                message = await self._receive()
        except TimeoutError:
            await self.refuse(TooSlow(f"Nothing of the body came for {BODY_SILENCE_S:.0f} seconds."))
            return {"type": "http.disconnect"}
        self._complete = self._complete or not message.get("more_body", False)
        self._seen_bytes += len(message.get("body", b""))
        if self._seen_bytes > self.limit_bytes and not self._refused:
            await self.refuse(self.too_large())
        return {"type": "http.disconnect"} if self._refused else message

    async def send(self, message: Message) -> None:
        """Pass the app's answer on, unless the body was refused."""
        if not self._refused:
            await self._send(message)
