"""Routes of accounts and the guild, and where the gateway is."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from bot.playground.errors import FormError, unauthorized, unknown
from bot.playground.gateway import gateway_url
from bot.playground.payloads import (
    channel_payload,
    guild_payload,
    member_payload,
    role_payload,
    user_payload,
    visible_channels,
)
from bot.playground.requests import answer, caller, json_object, number, query_number
from bot.playground.sessions import Sessions
from bot.playground.world import User, World, as_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GUILD = "/guilds/{guild_id}"


class GuildRoutes:
    """Handlers that read the world; opening a direct message is the one that changes it."""

    def __init__(self, world: World, sessions: Sessions) -> None:
        self._world = world
        self._sessions = sessions

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        return [
            ("GET", "/gateway", self.gateway),
            ("GET", "/gateway/bot", self.gateway_bot),
            ("GET", "/users/@me", self.me),
            ("GET", "/users/@me/guilds", self.my_guilds),
            ("POST", "/users/@me/channels", self.open_direct),
            ("GET", "/users/@me/channels", self.list_direct),
            ("GET", "/users/{user_id}", self.user),
            ("GET", GUILD, self.guild),
            ("GET", GUILD + "/channels", self.channels),
            ("GET", GUILD + "/roles", self.roles),
            ("GET", GUILD + "/members", self.members),
            ("GET", GUILD + "/members/search", self.members),
            ("GET", GUILD + "/members/{user_id}", self.member),
        ]

    async def gateway(self, request: web.Request) -> web.StreamResponse:
        """GET the gateway's address."""
        return answer({"url": gateway_url(self._world)})

    async def gateway_bot(self, request: web.Request) -> web.StreamResponse:
        """GET the gateway's address and how many sessions may start."""
        if not caller(self._world, request).bot:
            raise unauthorized()
        limit = {"total": 1000, "remaining": 1000, "reset_after": 86_400_000, "max_concurrency": 1}
        return answer({"url": gateway_url(self._world), "shards": 1, "session_start_limit": limit})

    async def me(self, request: web.Request) -> web.StreamResponse:
        """GET one's own account."""
        user = caller(self._world, request)
        return answer(user_payload(user) | {"verified": True, "mfa_enabled": False, "locale": "en-US", "flags": 0})

    async def user(self, request: web.Request) -> web.StreamResponse:
        """GET an account."""
        caller(self._world, request)
        user = self._world.user(number(request, "user_id"))
        if user is None:
            raise unknown("User")
        return answer(user_payload(user))

    async def my_guilds(self, request: web.Request) -> web.StreamResponse:
        """GET the guilds one is in."""
        caller(self._world, request)
        guild = self._world.guild
        return answer([{"id": str(guild.id), "name": guild.name, "icon": None, "owner": False, "features": []}])

    async def open_direct(self, request: web.Request) -> web.StreamResponse:
        """POST: open direct messages with somebody."""
        user = caller(self._world, request)
        body = await json_object(request)
        wanted = body.get("recipient_id") or next(iter(body.get("recipients") or []), 0)
        other = self._world.user(as_id(wanted))
        if other is None or other is user:
            raise FormError("recipient_id", "BASE_TYPE_CHOICES", "There is no such account to write to.")
        is_new = self._world.direct_channel_id(user, other) not in self._world.direct
        channel = self._world.direct_channel(user, other)
        if is_new:
            for viewer in channel.recipients:
                payload = channel_payload(self._world, channel, viewer)
                self._sessions.publish("CHANNEL_CREATE", payload, to=[viewer] if not viewer.bot else [])
        return answer(channel_payload(self._world, channel, user))

    async def list_direct(self, request: web.Request) -> web.StreamResponse:
        """GET one's direct message channels; bots have no list."""
        user = caller(self._world, request)
        mine = [c for c in self._world.direct.values() if user in c.recipients and not user.bot]
        return answer([channel_payload(self._world, channel, user) for channel in mine])

    def _viewer(self, request: web.Request) -> User:
        user = caller(self._world, request)
        if number(request, "guild_id") != self._world.guild.id:
            raise unknown("Guild")
        return user

    async def guild(self, request: web.Request) -> web.StreamResponse:
        """GET the guild."""
        counts = {"approximate_member_count": len(self._world.guild.members), "approximate_presence_count": 2}
        return answer(guild_payload(self._world, self._viewer(request)) | counts)

    async def channels(self, request: web.Request) -> web.StreamResponse:
        """GET the channels one sees."""
        viewer = self._viewer(request)
        return answer(
            [channel_payload(self._world, channel, viewer) for channel in visible_channels(self._world, viewer)]
        )

    async def roles(self, request: web.Request) -> web.StreamResponse:
        """GET the roles."""
        self._viewer(request)
        return answer([role_payload(role) for role in self._world.guild.roles.values()])

    async def members(self, request: web.Request) -> web.StreamResponse:
        """GET members, or those whose name starts with `query`."""
        self._viewer(request)
        start = request.query.get("query", "").lower()
        after = query_number(request, "after") or 0
        members = [m for m in self._world.guild.members.values() if m.user.id > after]
        return answer([member_payload(m) for m in members if m.user.username.lower().startswith(start)])

    async def member(self, request: web.Request) -> web.StreamResponse:
        """GET one member."""
        self._viewer(request)
        member = self._world.guild.members.get(number(request, "user_id"))
        if member is None:
            raise unknown("Member")
        return answer(member_payload(member))
