"""The playground as one thing to start and stop: every part put together, listening on 127.0.0.1.

async with Playground(port=0) as playground:
    with redirect(playground.base_url):
        await bot.start(playground.bot_token)      # unmodified discord.py
"""

import errno
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from bot.playground.commands import Commands
from bot.playground.errors import PlaygroundError
from bot.playground.files import serving_headers
from bot.playground.gateway import Gateway, gateway_url
from bot.playground.guard import Guard, Handler, RateLimit
from bot.playground.interactions import Interactions
from bot.playground.messages import Messages
from bot.playground.requests import MAX_BODY_BYTES, answer
from bot.playground.responses import Responses
from bot.playground.rest_application import ApplicationRoutes
from bot.playground.rest_channels import ChannelRoutes
from bot.playground.rest_guild import GuildRoutes
from bot.playground.seed import FIRST_CHANNEL_ID, build_world
from bot.playground.sessions import Sessions
from bot.playground.world import as_id

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Identities:
    """Who the people are and where they start; what `GET /playground/session` gives."""

    guild_id: str
    channel_id: str
    user_id: str
    user_token: str
    moderator_id: str
    moderator_token: str


class Playground:
    """A Discord stand-in. `port` 0 takes a free one; `base_url` is known once it runs."""

    def __init__(self, port: int = 8480) -> None:
        self._port = port
        self._world = build_world()
        self._sessions = Sessions()
        self._gateway = Gateway(self._world, self._sessions)
        self._messages = Messages(self._world, self._sessions)
        self._commands = Commands(self._world)
        self._interactions = Interactions(self._world, self._sessions, self._messages, self._commands)
        responses = Responses(self._world, self._messages, self._interactions)
        self._application = ApplicationRoutes(
            self._world, self._sessions, self._commands, self._interactions, responses
        )
        self._rate_limit = RateLimit()
        self._runner: web.AppRunner | None = None

    # where it is, and who is in it

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>`, the page's address."""
        return self._world.base_url

    @property
    def api_url(self) -> str:
        """Where Discord's REST API is."""
        return f"{self.base_url}/api/v10"

    @property
    def gateway_url(self) -> str:
        """Where Discord's gateway is."""
        return gateway_url(self._world)

    @property
    def bot_token(self) -> str:
        """What the bot logs in with; new in every run."""
        return self._world.bot.token

    @property
    def application_id(self) -> int:
        """The bot's application, whose id its account shares."""
        return self._world.bot.id

    @property
    def bot_online(self) -> bool:
        """Whether the bot is connected to the gateway, so that it sees what people write."""
        return self._sessions.is_online(self._world.bot)

    @property
    def session(self) -> Identities:
        """The member, the moderator and their first channel."""
        world = self._world
        return Identities(
            guild_id=str(world.guild.id),
            channel_id=str(FIRST_CHANNEL_ID),
            user_id=str(world.member.id),
            user_token=world.member.token,
            moderator_id=str(world.moderator.id),
            moderator_token=world.moderator.token,
        )

    # switches for tests

    def allow_message_content(self, allowed: bool) -> None:
        """Whether the application has the message-content intent; without it identifying with it closes with 4014."""
        self._gateway.message_content = allowed
        self._messages.message_content = allowed
        self._application.message_content = allowed

    def limit_next(self, count: int, retry_after_s: float) -> None:
        """Answer the bot's next `count` requests with 429."""
        self._rate_limit.count, self._rate_limit.retry_after_s = count, retry_after_s

    def expect_answers_within(self, timeout_s: float) -> None:
        """How long the bot has to acknowledge an interaction; Discord's 3 seconds unless set."""
        self._interactions.acknowledge_within_s = timeout_s

    async def drop_bot(self) -> None:
        """Break the bot's gateway connection, as a bad network would; it may resume."""
        await self._gateway.drop(self._world.bot)

    async def drop_people(self) -> None:
        """Break everybody else's connections; they may resume too."""
        for person in (self._world.member, self._world.moderator):
            await self._gateway.drop(person)

    # running

    async def start(self) -> None:
        """Listen. Raises PlaygroundError when the port is taken."""
        application = web.Application(middlewares=[Guard(self._rate_limit).middleware], client_max_size=MAX_BODY_BYTES)
        for method, path, handler in self._routes():
            application.router.add_route(method, path, handler)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, self._port).start()
        except OSError as error:
            await self.close()
            raise PlaygroundError(error.errno, _why_not(self._port, error)) from error
        self._world.base_url = f"http://{HOST}:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """End every connection and stop listening."""
        self._interactions.close()
        await self._gateway.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # routes

    def _routes(self) -> list[tuple[str, str, Handler]]:
        parts = (
            GuildRoutes(self._world, self._sessions),
            ChannelRoutes(self._world, self._messages),
            self._application,
        )
        api = [(method, "/api/v10" + path, handler) for part in parts for method, path, handler in part.table()]
        return [
            *api,
            ("GET", "/gateway/", self._gateway.connect),
            ("GET", "/playground/session", self._get_session),
            ("GET", "/", self._get_page),
            ("GET", "/page/{name}", self._get_page),
            ("GET", "/attachments/{channel_id}/{attachment_id}/{filename}", self._get_attachment),
            ("GET", "/avatars/{user_id}/{avatar}", self._get_avatar),
        ]

    async def _get_session(self, request: web.Request) -> web.StreamResponse:
        response = answer(asdict(self.session))
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _get_page(self, request: web.Request) -> web.StreamResponse:
        path = PAGE / request.match_info.get("name", "index.html")
        if path.parent != PAGE or not path.is_file():
            raise web.HTTPNotFound
        headers = {"Content-Security-Policy": CONTENT_SECURITY, "Cache-Control": "no-cache"}
        return web.FileResponse(path, headers=headers)

    async def _get_attachment(self, request: web.Request) -> web.StreamResponse:
        channel_id, attachment_id = as_id(request.match_info["channel_id"]), as_id(request.match_info["attachment_id"])
        attachment = self._world.file(channel_id, attachment_id)
        if attachment is None or attachment.filename != request.match_info["filename"]:
            raise web.HTTPNotFound
        return web.Response(body=attachment.body, headers=serving_headers(attachment))

    async def _get_avatar(self, request: web.Request) -> web.StreamResponse:
        user = self._world.user(as_id(request.match_info["user_id"]))
        if user is None or request.match_info["avatar"].split(".")[0] != user.avatar:
            raise web.HTTPNotFound
        return web.FileResponse(PAGE / f"avatar-{user.avatar}.svg", headers={"Cache-Control": "max-age=3600"})


def _why_not(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = "Stop that one, or choose another port: PUNCHLINE_PLAYGROUND__PORT=8481."
        return f"Port {port} is already in use, perhaps by another playground. {other}"
    return f"The playground cannot listen on {HOST}:{port}: {error.strerror}."
