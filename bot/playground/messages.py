"""What people and the bot do with messages: write, edit, delete, react. Changes the world and tells the gateway.

Every method checks permissions for the account that acts and raises Discord's error when it may not.
"""

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from bot.playground import sessions as intents
from bot.playground.drafts import Draft, apply
from bot.playground.errors import ApiError, FormError, unknown
from bot.playground.payloads import blank_content, member_payload, message_payload
from bot.playground.permissions import (
    ADD_REACTIONS,
    ATTACH_FILES,
    MANAGE_MESSAGES,
    READ_MESSAGE_HISTORY,
    SEND_MESSAGES,
    channel_permissions,
    require,
)
from bot.playground.sessions import Session, Sessions
from bot.playground.world import EPHEMERAL, Channel, Message, User, World, as_id

Json = dict[str, Any]

MAX_REACTIONS = 20
REPLY = 19


class Messages:
    """Messages of every channel. `message_content` off: a bot reads only what is addressed to it."""

    def __init__(self, world: World, sessions: Sessions) -> None:
        self._world = world
        self._sessions = sessions
        self.message_content = True

    # reading

    def get(self, channel: Channel, message_id: int, viewer: User) -> Message:
        """A message `viewer` can see, else 10008."""
        message = channel.messages.get(message_id)
        if message is None or message.visible_to not in (None, viewer.id):
            raise unknown("Message")
        return message

    def history(self, channel: Channel, viewer: User, limit: int, **bounds: int | None) -> list[Message]:
        """Newest first, with the viewer's own ephemeral ones; bounds are `before`, `after`, `around` ids."""
        require(self._world, viewer, channel, READ_MESSAGE_HISTORY)
        seen = [m for m in channel.messages.values() if m.visible_to in (None, viewer.id)]
        before, after, around = bounds.get("before"), bounds.get("after"), bounds.get("around")
        if before is not None:
            return [m for m in reversed(seen) if m.id < before][:limit]
        if after is not None:
            return [m for m in seen if m.id > after][:limit][::-1]
        if around is not None:
            newer = [m for m in seen if m.id > around][: limit // 2]
            older = [m for m in seen if m.id <= around][-(limit - len(newer)) :]
            return [*reversed(newer), *reversed(older)]
        return seen[::-1][:limit]

    def payload(self, message: Message, viewer: User) -> Json:
        """The message as this viewer gets it from REST."""
        payload = message_payload(self._world, message, viewer)
        return payload if self._readable(message, viewer, self.message_content) else blank_content(payload)

    # writing

    def send(self, channel: Channel, author: User, draft: Draft) -> Message:
        """Write a message in a channel; may be a reply."""
        needed = SEND_MESSAGES | (ATTACH_FILES if draft.uploads else 0)
        require(self._world, author, channel, needed)
        again = self._sent_before(channel, author, draft.body)
        if again is not None:
            return again
        message = Message(self._world.new_id(), channel, author)
        replied_to = self._reply(message, draft.body.get("message_reference"))
        apply(self._world, draft, message, replied_to=replied_to)
        nonce = draft.body.get("nonce")
        message.nonce = None if nonce is None else str(nonce)
        self.publish_new(message)
        return message

    def _sent_before(self, channel: Channel, author: User, body: Json) -> Message | None:
        """With `enforce_nonce` a repeated nonce answers with the message it already made."""
        if not body.get("enforce_nonce") or body.get("nonce") is None:
            return None
        recent = list(channel.messages.values())[-50:]
        return next((m for m in recent if m.author is author and m.nonce == str(body["nonce"])), None)

    def _reply(self, message: Message, reference: Json | None) -> Message | None:
        if not reference:
            return None
        replied_to = message.channel.messages.get(as_id(reference.get("message_id")))
        if replied_to is None or replied_to.visible_to is not None:
            if reference.get("fail_if_not_exists", True):
                raise FormError("message_reference", "MESSAGE_REFERENCE_UNKNOWN_MESSAGE", "Unknown message")
            return None
        message.type = REPLY
        message.reference = self.reference_to(replied_to)
        return replied_to

    def reference_to(self, message: Message) -> Json:
        """A message reference object."""
        reference: Json = {"type": 0, "message_id": str(message.id), "channel_id": str(message.channel.id)}
        if not message.channel.is_dm:
            reference["guild_id"] = str(self._world.guild.id)
        return reference

    def edit(self, message: Message, editor: User, draft: Draft) -> None:
        """Change one's own message."""
        if message.author is not editor:
            raise ApiError(403, 50005, "Cannot edit a message authored by another user")
        apply(self._world, draft, message)
        message.edited_at = datetime.now(UTC)
        self.publish("MESSAGE_UPDATE", message)

    def delete(self, message: Message, deleter: User) -> None:
        """Delete one's own message, or any with Manage Messages; a person dismisses an ephemeral one."""
        own = message.author is deleter or message.visible_to == deleter.id
        if not own:
            if message.channel.is_dm:
                raise ApiError(403, 50003, "Cannot execute action on a DM channel")
            require(self._world, deleter, message.channel, MANAGE_MESSAGES)
        del message.channel.messages[message.id]
        gone = self._in_guild(message.channel, {"id": str(message.id), "channel_id": str(message.channel.id)})
        self._tell("MESSAGE_DELETE", gone, message.channel, intents.GUILD_MESSAGES, message)

    # reactions

    def react(self, message: Message, user: User, emoji: str) -> None:
        """Add a reaction; adding it twice changes nothing."""
        self._check_reaction(message, emoji)
        if emoji not in message.reactions:
            require(self._world, user, message.channel, ADD_REACTIONS | READ_MESSAGE_HISTORY)
            if len(message.reactions) >= MAX_REACTIONS:
                raise ApiError(403, 30010, "Maximum number of reactions reached (20)")
        users = message.reactions.setdefault(emoji, [])
        if user not in users:
            users.append(user)
            self._tell_reaction("MESSAGE_REACTION_ADD", message, user, emoji)

    def unreact(self, message: Message, user: User, emoji: str, remover: User) -> None:
        """Take back a reaction; somebody else's needs Manage Messages."""
        self._check_reaction(message, emoji)
        if user is not remover:
            require(self._world, remover, message.channel, MANAGE_MESSAGES)
        users = message.reactions.get(emoji, [])
        if user not in users:
            raise unknown("Emoji")
        users.remove(user)
        if not users:
            del message.reactions[emoji]
        self._tell_reaction("MESSAGE_REACTION_REMOVE", message, user, emoji)

    def clear_reactions(self, message: Message, remover: User) -> None:
        """Remove every reaction."""
        require(self._world, remover, message.channel, MANAGE_MESSAGES)
        message.reactions.clear()
        gone = {"channel_id": str(message.channel.id), "message_id": str(message.id)}
        self._tell(
            "MESSAGE_REACTION_REMOVE_ALL", self._in_guild(message.channel, gone), message.channel, _REACTIONS, message
        )

    def _check_reaction(self, message: Message, emoji: str) -> None:
        if message.flags & EPHEMERAL:
            raise unknown("Message")
        symbols = any(unicodedata.category(sign) in ("So", "Sk", "Sm", "Po", "Me") for sign in emoji)
        if not symbols or len(emoji) > 16 or ":" in emoji:
            raise unknown("Emoji")

    def _tell_reaction(self, event: str, message: Message, user: User, emoji: str) -> None:
        payload = self._in_guild(
            message.channel,
            {
                "user_id": str(user.id),
                "channel_id": str(message.channel.id),
                "message_id": str(message.id),
                "message_author_id": str(message.author.id),
                "emoji": {"id": None, "name": emoji},
                "burst": False,
                "type": 0,
            },
        )
        if event == "MESSAGE_REACTION_ADD" and not message.channel.is_dm:
            payload["member"] = member_payload(self._world.guild.members[user.id])
        self._tell(event, payload, message.channel, _REACTIONS, message)

    # telling

    def typing(self, channel: Channel, user: User) -> None:
        """Show that somebody writes; lasts ten seconds on every client."""
        require(self._world, user, channel, SEND_MESSAGES)
        payload = self._in_guild(
            channel,
            {
                "channel_id": str(channel.id),
                "user_id": str(user.id),
                "timestamp": int(datetime.now(UTC).timestamp()),
            },
        )
        if not channel.is_dm:
            payload["member"] = member_payload(self._world.guild.members[user.id])
        self._tell("TYPING_START", payload, channel, intents.GUILD_TYPING)

    def publish_new(self, message: Message) -> None:
        """Keep a finished message and tell everybody who sees it."""
        message.channel.keep(message)
        self.publish("MESSAGE_CREATE", message)

    def publish(self, event: str, message: Message) -> None:
        """Tell everybody who sees the message, each with the fields they may read."""

        def for_session(session: Session) -> Json:
            payload = self._in_guild(message.channel, message_payload(self._world, message, session.user))
            if not message.channel.is_dm:
                author = self._world.guild.members[message.author.id]
                payload["member"] = member_payload(author, with_user=False)
            has_intent = bool(session.intents & intents.MESSAGE_CONTENT)
            return payload if self._readable(message, session.user, has_intent) else blank_content(payload)

        intent = intents.DIRECT_MESSAGES if message.channel.is_dm else intents.GUILD_MESSAGES
        self._sessions.publish(event, for_session, to=self._audience(message.channel, message), intent=intent)

    def _tell(self, event: str, payload: Json, channel: Channel, intent: int, message: Message | None = None) -> None:
        if channel.is_dm:
            intent = _IN_DIRECT[intent]
        self._sessions.publish(event, payload, to=self._audience(channel, message), intent=intent)

    def _audience(self, channel: Channel, message: Message | None) -> Iterable[User]:
        if message is not None and message.visible_to is not None:
            return [user for user in self._world.users if user.id == message.visible_to]
        return [user for user in self._world.users if channel_permissions(self._world, user, channel)]

    def _in_guild(self, channel: Channel, payload: Json) -> Json:
        return payload if channel.is_dm else {**payload, "guild_id": str(self._world.guild.id)}

    def _readable(self, message: Message, viewer: User, has_intent: bool) -> bool:
        """Discord's rule of the message-content intent: own, addressed and direct messages are always whole."""
        if not viewer.bot or has_intent or message.channel.is_dm:
            return True
        return message.author is viewer or viewer in message.mentions


_REACTIONS = intents.GUILD_REACTIONS
_IN_DIRECT = {
    intents.GUILD_MESSAGES: intents.DIRECT_MESSAGES,
    intents.GUILD_REACTIONS: intents.DIRECT_REACTIONS,
    intents.GUILD_TYPING: intents.DIRECT_TYPING,
}
