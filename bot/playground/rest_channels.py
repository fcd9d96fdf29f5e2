"""Routes of channels: messages, reactions, typing. The same for the bot and for people."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from bot.playground.errors import ApiError, FormError, unknown
from bot.playground.messages import Messages
from bot.playground.payloads import channel_payload, user_payload
from bot.playground.permissions import MANAGE_MESSAGES, VIEW_CHANNEL, require
from bot.playground.requests import (
    answer,
    caller,
    channel_of,
    draft_body,
    json_object,
    nothing,
    number,
    query_number,
)
from bot.playground.world import Message, User, World, as_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHANNEL = "/channels/{channel_id}"
MESSAGE = CHANNEL + "/messages/{message_id}"
REACTION = MESSAGE + "/reactions/{emoji}"


class ChannelRoutes:
    """Handlers over `Messages`."""

    def __init__(self, world: World, messages: Messages) -> None:
        self._world = world
        self._messages = messages

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        return [
            ("GET", CHANNEL, self.get_channel),
            ("GET", CHANNEL + "/messages", self.history),
            ("POST", CHANNEL + "/messages", self.send),
            ("POST", CHANNEL + "/messages/bulk-delete", self.delete_many),
            ("GET", MESSAGE, self.get_message),
            ("PATCH", MESSAGE, self.edit),
            ("DELETE", MESSAGE, self.delete),
            ("PUT", REACTION + "/@me", self.react),
            ("DELETE", REACTION + "/{user_id}", self.unreact),
            ("GET", REACTION, self.reactors),
            ("DELETE", MESSAGE + "/reactions", self.clear_reactions),
            ("POST", CHANNEL + "/typing", self.typing),
        ]

    def _message(self, request: web.Request) -> tuple[Message, User]:
        user, channel = caller(self._world, request), channel_of(self._world, request)
        require(self._world, user, channel, VIEW_CHANNEL)
        return self._messages.get(channel, number(request, "message_id"), user), user

    async def get_channel(self, request: web.Request) -> web.StreamResponse:
        """GET a channel."""
        user, channel = caller(self._world, request), channel_of(self._world, request)
        require(self._world, user, channel, VIEW_CHANNEL)
        return answer(channel_payload(self._world, channel, user))

    async def history(self, request: web.Request) -> web.StreamResponse:
        """GET messages, newest first, with limit, before, after, around."""
        user, channel = caller(self._world, request), channel_of(self._world, request)
        asked = query_number(request, "limit")
        limit = 50 if asked is None else asked
        if not 1 <= limit <= 100:
            raise FormError("limit", "NUMBER_TYPE_MAX", "int value should be between 1 and 100.")
        bounds = {name: query_number(request, name) for name in ("before", "after", "around")}
        found = self._messages.history(channel, user, limit, **bounds)
        return answer([self._messages.payload(message, user) for message in found])

    async def send(self, request: web.Request) -> web.StreamResponse:
        """POST a message."""
        user, channel = caller(self._world, request), channel_of(self._world, request)
        message = self._messages.send(channel, user, await draft_body(request))
        return answer(self._messages.payload(message, user))

    async def get_message(self, request: web.Request) -> web.StreamResponse:
        """GET one message."""
        message, user = self._message(request)
        return answer(self._messages.payload(message, user))

    async def edit(self, request: web.Request) -> web.StreamResponse:
        """PATCH one's own message."""
        draft = await draft_body(request)
        message, user = self._message(request)
        self._messages.edit(message, user, draft)
        return answer(self._messages.payload(message, user))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE a message."""
        message, user = self._message(request)
        self._messages.delete(message, user)
        return nothing()

    async def delete_many(self, request: web.Request) -> web.StreamResponse:
        """POST bulk-delete: 2 to 100 messages; ids that are gone are left out, as Discord does."""
        user, channel = caller(self._world, request), channel_of(self._world, request)
        ids = (await json_object(request)).get("messages") or []
        if not 2 <= len(ids) <= 100:
            raise ApiError(400, 50016, "Provided too few or too many messages to delete.")
        require(self._world, user, channel, MANAGE_MESSAGES)
        for message_id in map(as_id, ids):
            if message_id in channel.messages:
                self._messages.delete(channel.messages[message_id], user)
        return nothing()

    async def react(self, request: web.Request) -> web.StreamResponse:
        """PUT one's own reaction."""
        message, user = self._message(request)
        self._messages.react(message, user, request.match_info["emoji"])
        return nothing()

    async def unreact(self, request: web.Request) -> web.StreamResponse:
        """DELETE a reaction: `@me` or somebody's id."""
        message, user = self._message(request)
        whose = request.match_info["user_id"]
        owner = user if whose == "@me" else self._world.user(number(request, "user_id"))
        if owner is None:
            raise unknown("User")
        self._messages.unreact(message, owner, request.match_info["emoji"], user)
        return nothing()

    async def reactors(self, request: web.Request) -> web.StreamResponse:
        """GET who reacted with an emoji."""
        message, _ = self._message(request)
        users = message.reactions.get(request.match_info["emoji"], [])
        return answer([user_payload(user) for user in users])

    async def clear_reactions(self, request: web.Request) -> web.StreamResponse:
        """DELETE every reaction."""
        message, user = self._message(request)
        self._messages.clear_reactions(message, user)
        return nothing()

    async def typing(self, request: web.Request) -> web.StreamResponse:
        """POST: somebody is typing."""
        user, channel = caller(self._world, request), channel_of(self._world, request)
        self._messages.typing(channel, user)
        return nothing()
