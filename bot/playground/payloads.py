"""The world in Discord's words: the JSON objects of API v10, as much as its documentation promises for each.

Every function is pure: state in, a fresh dictionary out. Ids and permission bits are strings on the wire.
"""

from datetime import datetime
from typing import Any

from bot.playground.permissions import channel_permissions
from bot.playground.world import Attachment, Channel, Member, Message, Role, User, World

Json = dict[str, Any]


def timestamp(moment: datetime) -> str:
    """ISO 8601 with microseconds and offset."""
    return moment.isoformat(timespec="microseconds")


def user_payload(user: User) -> Json:
    """A user object."""
    return {
        "id": str(user.id),
        "username": user.username,
        "discriminator": "0000" if user.bot else "0",
        "global_name": user.global_name,
        "avatar": user.avatar,
        "bot": user.bot,
        "public_flags": 0,
    }


def member_payload(member: Member, *, with_user: bool = True) -> Json:
    """A guild member object; inside messages Discord leaves the user out."""
    payload: Json = {
        "roles": [str(role_id) for role_id in member.role_ids],
        "joined_at": timestamp(member.joined_at),
        "nick": None,
        "avatar": None,
        "premium_since": None,
        "communication_disabled_until": None,
        "pending": False,
        "deaf": False,
        "mute": False,
        "flags": 0,
    }
    if with_user:
        payload["user"] = user_payload(member.user)
    return payload


def role_payload(role: Role) -> Json:
    """A role object."""
    payload: Json = {
        "id": str(role.id),
        "name": role.name,
        "permissions": str(role.permissions),
        "position": role.position,
        "color": role.colour,
        "colors": {"primary_color": role.colour, "secondary_color": None, "tertiary_color": None},
        "hoist": role.hoist,
        "managed": role.bot_id is not None,
        "mentionable": False,
        "flags": 0,
    }
    if role.bot_id is not None:
        payload["tags"] = {"bot_id": str(role.bot_id)}
    return payload


def channel_payload(world: World, channel: Channel, viewer: User) -> Json:
    """A channel object; a direct message names the other side as recipient."""
    last_id = next(reversed(channel.messages), None)
    payload: Json = {
        "id": str(channel.id),
        "type": channel.type,
        "last_message_id": None if last_id is None else str(last_id),
        "flags": 0,
    }
    if channel.is_dm:
        payload["recipients"] = [user_payload(user) for user in channel.recipients if user is not viewer]
        return payload
    return payload | {
        "guild_id": str(world.guild.id),
        "name": channel.name,
        "topic": channel.topic,
        "position": channel.position,
        "parent_id": None if channel.parent_id is None else str(channel.parent_id),
        "nsfw": False,
        "rate_limit_per_user": 0,
        "permission_overwrites": [
            {"id": str(o.id), "type": o.type, "allow": str(o.allow), "deny": str(o.deny)} for o in channel.overwrites
        ],
    }


def visible_channels(world: World, viewer: User) -> list[Channel]:
    """The guild's channels this user may see, categories included."""
    return [channel for channel in world.guild.channels.values() if channel_permissions(world, viewer, channel)]


def guild_payload(world: World, viewer: User) -> Json:
    """A guild object with roles; GUILD_CREATE adds channels, members and presences."""
    guild = world.guild
    return {
        "id": str(guild.id),
        "name": guild.name,
        "icon": None,
        "owner_id": str(guild.owner_id),
        "roles": [role_payload(role) for role in guild.roles.values()],
        "emojis": [],
        "stickers": [],
        "features": [],
        "description": None,
        "verification_level": 0,
        "default_message_notifications": 1,
        "explicit_content_filter": 0,
        "mfa_level": 0,
        "nsfw_level": 0,
        "premium_tier": 0,
        "preferred_locale": "en-US",
        "system_channel_id": None,
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "public_updates_channel_id": None,
        "afk_channel_id": None,
        "afk_timeout": 300,
        "vanity_url_code": None,
        "max_members": 500_000,
    }


def guild_create_payload(world: World, viewer: User, members: list[Member], presences: list[Json]) -> Json:
    """What GUILD_CREATE carries for one viewer."""
    return guild_payload(world, viewer) | {
        "joined_at": timestamp(world.guild.created_at),
        "large": False,
        "unavailable": False,
        "member_count": len(world.guild.members),
        "members": [member_payload(member) for member in members],
        "channels": [channel_payload(world, channel, viewer) for channel in visible_channels(world, viewer)],
        "threads": [],
        "presences": presences,
        "voice_states": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }


def attachment_payload(world: World, channel_id: int, attachment: Attachment) -> Json:
    """An attachment object; its address is on the playground."""
    url = f"{world.base_url}/attachments/{channel_id}/{attachment.id}/{attachment.filename}"
    payload: Json = {
        "id": str(attachment.id),
        "filename": attachment.filename,
        "size": len(attachment.body),
        "url": url,
        "proxy_url": url,
        "content_type": attachment.content_type,
    }
    if attachment.description:
        payload["description"] = attachment.description
    if attachment.size is not None:
        payload["width"], payload["height"] = attachment.size
    return payload


def message_payload(world: World, message: Message, viewer: User, *, nested: bool = False) -> Json:
    """A message object as `viewer` gets it from REST; a `nested` one carries no message it refers to."""
    payload: Json = {
        "id": str(message.id),
        "channel_id": str(message.channel.id),
        "author": user_payload(message.author),
        "content": message.content,
        "timestamp": timestamp(message.created_at),
        "edited_timestamp": None if message.edited_at is None else timestamp(message.edited_at),
        "tts": False,
        "mention_everyone": message.mention_everyone,
        "mentions": [user_payload(user) for user in message.mentions],
        "mention_roles": [str(role_id) for role_id in message.mention_role_ids],
        "attachments": [attachment_payload(world, message.channel.id, a) for a in message.attachments],
        "embeds": message.embeds,
        "components": message.components,
        "pinned": False,
        "type": message.type,
        "flags": message.flags,
    }
    if message.reactions:
        payload["reactions"] = [reaction_payload(emoji, users, viewer) for emoji, users in message.reactions.items()]
    if message.nonce is not None:
        payload["nonce"] = message.nonce
    if message.interaction is not None:
        payload |= {"application_id": str(world.bot.id), "webhook_id": str(world.bot.id)} | message.interaction
    if message.reference is not None:
        payload["message_reference"] = message.reference
        if not nested:
            found = message.channel.messages.get(int(message.reference["message_id"]))
            payload["referenced_message"] = found and message_payload(world, found, viewer, nested=True)
    return payload


def reaction_payload(emoji: str, users: list[User], viewer: User) -> Json:
    """A reaction object: the count, and whether the viewer is among them."""
    return {
        "emoji": {"id": None, "name": emoji},
        "count": len(users),
        "count_details": {"normal": len(users), "burst": 0},
        "me": viewer in users,
        "me_burst": False,
        "burst_colors": [],
    }


def application_payload(world: World, *, message_content: bool) -> Json:
    """The bot's application, owned by the moderator so that owner commands can be tried."""
    limited_intents = (1 << 13) | (1 << 15)  # presences and members, granted to small bots
    return {
        "id": str(world.bot.id),
        "name": world.bot.username,
        "description": "A bot with a sense of humour that its community trains.",
        "icon": None,
        "bot_public": False,
        "bot_require_code_grant": False,
        "owner": user_payload(world.moderator),
        "team": None,
        "verify_key": "0" * 64,
        "flags": limited_intents | (1 << 19 if message_content else 0),
        "bot": user_payload(world.bot),
        "approximate_guild_count": 1,
        "integration_types_config": {"0": {}},
    }


def blank_content(payload: Json) -> Json:
    """The message as a bot without the message-content intent gets it."""
    return payload | {"content": "", "embeds": [], "attachments": [], "components": []}
