"""Routes of the application: its commands, and interactions from both sides."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from bot.playground.commands import Commands
from bot.playground.errors import ApiError, unauthorized, unknown
from bot.playground.interactions import Interactions
from bot.playground.payloads import application_payload
from bot.playground.requests import answer, caller, draft_body, json_body, json_object, nothing, number
from bot.playground.responses import Responses
from bot.playground.sessions import Sessions
from bot.playground.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GLOBAL = "/applications/{application_id}/commands"
IN_GUILD = "/applications/{application_id}/guilds/{guild_id}/commands"
WEBHOOK = "/webhooks/{application_id}/{token}"


class ApplicationRoutes:
    """Handlers over `Commands`, `Interactions` and `Responses`."""

    def __init__(
        self, world: World, sessions: Sessions, commands: Commands, interactions: Interactions, responses: Responses
    ) -> None:
        self._world = world
        self._sessions = sessions
        self._commands = commands
        self._interactions = interactions
        self._responses = responses
        self.message_content = True

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        rows: list[tuple[str, str, Handler]] = [
            ("GET", "/applications/@me", self.application),
            ("GET", "/oauth2/applications/@me", self.application),
            ("GET", "/applications/{application_id}/emojis", self.emojis),
            ("GET", "/guilds/{guild_id}/application-command-index", self.command_index),
            ("POST", "/interactions", self.start),
            ("POST", "/interactions/{interaction_id}/{token}/callback", self.respond),
            ("POST", WEBHOOK, self.follow_up),
            ("GET", WEBHOOK + "/messages/{which}", self.get_response),
            ("PATCH", WEBHOOK + "/messages/{which}", self.edit_response),
            ("DELETE", WEBHOOK + "/messages/{which}", self.delete_response),
        ]
        for path in (GLOBAL, IN_GUILD):
            rows += [
                ("GET", path, self.list_commands),
                ("PUT", path, self.replace_commands),
                ("POST", path, self.create_command),
                ("GET", path + "/{command_id}", self.get_command),
                ("PATCH", path + "/{command_id}", self.edit_command),
                ("DELETE", path + "/{command_id}", self.delete_command),
            ]
        return rows

    # the application and its commands

    def _scope(self, request: web.Request) -> int | None:
        """Whose commands the path names; only the bot may touch them."""
        user = caller(self._world, request)
        if not user.bot or number(request, "application_id") != user.id:
            raise unknown("Application")
        if "guild_id" not in request.match_info:
            return None
        if number(request, "guild_id") != self._world.guild.id:
            raise ApiError(403, 50001, "Missing Access")
        return self._world.guild.id

    def _changed(self) -> None:
        index = {"guild_id": str(self._world.guild.id), "version": str(self._world.new_id())}
        people = [user for user in self._world.users if not user.bot]
        self._sessions.publish("GUILD_APPLICATION_COMMAND_INDEX_UPDATE", index, to=people)

    async def application(self, request: web.Request) -> web.StreamResponse:
        """GET the bot's own application."""
        if not caller(self._world, request).bot:
            raise unauthorized()
        return answer(application_payload(self._world, message_content=self.message_content))

    async def emojis(self, request: web.Request) -> web.StreamResponse:
        """GET the application's emojis: none."""
        self._scope(request)
        return answer({"items": []})

    async def list_commands(self, request: web.Request) -> web.StreamResponse:
        """GET every command of a scope."""
        return answer(self._commands.all(self._scope(request)))

    async def replace_commands(self, request: web.Request) -> web.StreamResponse:
        """PUT every command of a scope."""
        scope = self._scope(request)
        commands = self._commands.replace(scope, await json_body(request))
        self._changed()
        return answer(commands)

    async def create_command(self, request: web.Request) -> web.StreamResponse:
        """POST one command."""
        scope = self._scope(request)
        command = self._commands.upsert(scope, await json_object(request))
        self._changed()
        return answer(command, 201)

    async def get_command(self, request: web.Request) -> web.StreamResponse:
        """GET one command."""
        return answer(self._commands.get(self._scope(request), number(request, "command_id")))

    async def edit_command(self, request: web.Request) -> web.StreamResponse:
        """PATCH one command."""
        scope = self._scope(request)
        command = self._commands.edit(scope, number(request, "command_id"), await json_object(request))
        self._changed()
        return answer(command)

    async def delete_command(self, request: web.Request) -> web.StreamResponse:
        """DELETE one command."""
        self._commands.remove(self._scope(request), number(request, "command_id"))
        self._changed()
        return nothing()

    async def command_index(self, request: web.Request) -> web.StreamResponse:
        """GET the commands a person may use, as the client's picker asks for them."""
        user = caller(self._world, request)
        commands = self._commands.visible_to(user)
        application = {"id": str(self._world.bot.id), "name": self._world.bot.username}
        return answer({"applications": [application], "application_commands": commands})

    # interactions

    async def start(self, request: web.Request) -> web.StreamResponse:
        """POST from a person: a command, a click, a field being typed or a form."""
        user = caller(self._world, request)
        if user.bot:
            raise ApiError(403, 20001, "Bots cannot use this endpoint")
        draft = await draft_body(request)
        self._interactions.start(user, draft.body, draft.uploads)
        return nothing()

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """POST from the bot: the first response."""
        draft = await draft_body(request)
        callback = self._responses.respond(number(request, "interaction_id"), request.match_info["token"], draft)
        wanted = request.query.get("with_response", "0").lower() in ("1", "true")
        return answer(callback) if wanted else nothing()

    async def follow_up(self, request: web.Request) -> web.StreamResponse:
        """POST from the bot: a followup message."""
        message = self._responses.send(self._token(request), await draft_body(request))
        return answer(self._responses.payload(message))

    async def get_response(self, request: web.Request) -> web.StreamResponse:
        """GET the original response or a followup."""
        message = self._responses.message(self._token(request), request.match_info["which"])
        return answer(self._responses.payload(message))

    async def edit_response(self, request: web.Request) -> web.StreamResponse:
        """PATCH the original response or a followup."""
        draft = await draft_body(request)
        message = self._responses.edit(self._token(request), request.match_info["which"], draft)
        return answer(self._responses.payload(message))

    async def delete_response(self, request: web.Request) -> web.StreamResponse:
        """DELETE the original response or a followup."""
        self._responses.delete(self._token(request), request.match_info["which"])
        return nothing()

    def _token(self, request: web.Request) -> str:
        if number(request, "application_id") != self._world.bot.id:
            raise unknown("Webhook")
        return request.match_info["token"]
