"""The state of the playground: one guild with its people, channels, roles and messages, all in memory.

Ids of people and places never change between runs, so that what the bot keeps about them (jokes, consent)
still fits after a restart. Messages are gone when the process ends.
"""

import secrets
import time
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

EPOCH_MS = 1_420_070_400_000  # Discord counts from 2015
MAX_KEPT_MESSAGES = 2_000  # per channel; the oldest go first
MAX_KEPT_FILES = 100

EPHEMERAL = 1 << 6
LOADING = 1 << 7
COMPONENTS_V2 = 1 << 15


class Snowflakes:
    """Ids that carry their time, as Discord's do, and only rise."""

    def __init__(self) -> None:
        self._last = 0

    def new(self) -> int:
        """An id above every one before it."""
        now = (int(time.time() * 1000) - EPOCH_MS) << 22
        self._last = max(now, self._last + 1)
        return self._last


@dataclass(slots=True, eq=False)
class User:
    """An account: a person or the bot."""

    id: int
    username: str
    global_name: str | None
    token: str
    avatar: str
    bot: bool = False


@dataclass(slots=True, eq=False)
class Role:
    """A guild role; the one whose id is the guild's is @everyone."""

    id: int
    name: str
    permissions: int
    position: int
    colour: int = 0
    hoist: bool = False
    bot_id: int | None = None


@dataclass(slots=True, eq=False)
class Member:
    """A user in the guild."""

    user: User
    role_ids: list[int]
    joined_at: datetime


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Bits a channel allows and denies a role (type 0) or a member (type 1)."""

    id: int
    type: int
    allow: int = 0
    deny: int = 0


@dataclass(slots=True, eq=False)
class Attachment:
    """A file of a message, kept in memory and served by the playground."""

    id: int
    filename: str
    content_type: str
    body: bytes
    description: str | None = None
    size: tuple[int, int] | None = None  # width and height of a picture


@dataclass(slots=True, eq=False)
class Message:
    """A message; `visible_to` names the one person who sees an ephemeral one."""

    id: int
    channel: "Channel"
    author: User
    content: str = ""
    type: int = 0
    flags: int = 0
    embeds: list[dict[str, Any]] = field(default_factory=list)
    components: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    reactions: dict[str, list[User]] = field(default_factory=dict)
    mentions: list[User] = field(default_factory=list)
    mention_role_ids: list[int] = field(default_factory=list)
    mention_everyone: bool = False
    reference: dict[str, Any] | None = None
    interaction: dict[str, Any] | None = None
    nonce: str | None = None
    edited_at: datetime | None = None
    visible_to: int | None = None

    @property
    def created_at(self) -> datetime:
        """When it was written, from its id."""
        return datetime.fromtimestamp(((self.id >> 22) + EPOCH_MS) / 1000, UTC)


@dataclass(slots=True, eq=False)
class Channel:
    """A text channel (type 0), a category (4) or a direct message (1, with recipients)."""

    id: int
    type: int
    name: str = ""
    topic: str | None = None
    position: int = 0
    parent_id: int | None = None
    overwrites: list[Overwrite] = field(default_factory=list)
    recipients: list[User] = field(default_factory=list)
    messages: dict[int, Message] = field(default_factory=dict)

    @property
    def is_dm(self) -> bool:
        """Between two accounts, outside the guild."""
        return self.type == 1

    def keep(self, message: Message) -> None:
        """Add a message and let the oldest go above the limit."""
        self.messages[message.id] = message
        while len(self.messages) > MAX_KEPT_MESSAGES:
            del self.messages[next(iter(self.messages))]


@dataclass(slots=True, eq=False)
class Guild:
    """The one server of the playground."""

    id: int
    name: str
    owner_id: int
    created_at: datetime
    roles: dict[int, Role] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)


class World:
    """Everything there is, and how to find it; `bot.playground.seed` fills it."""

    def __init__(self, guild: Guild, member: User, moderator: User, bot: User) -> None:
        self.guild = guild
        self.member = member
        self.moderator = moderator
        self.bot = bot
        self.base_url = ""  # known once the server listens
        self.direct: dict[int, Channel] = {}
        self._snowflakes = Snowflakes()
        self._files: dict[tuple[int, int], Attachment] = {}
        self._by_token = {user.token: user for user in self.users}

    @property
    def users(self) -> tuple[User, ...]:
        """Every account."""
        return (self.member, self.moderator, self.bot)

    def new_id(self) -> int:
        """A fresh snowflake."""
        return self._snowflakes.new()

    def user(self, user_id: int) -> User | None:
        """The account with this id."""
        return next((user for user in self.users if user.id == user_id), None)

    def user_by_token(self, token: str) -> User | None:
        """The account that logs in with this token."""
        return self._by_token.get(token)

    def channel(self, channel_id: int) -> Channel | None:
        """A guild channel or a direct message channel."""
        return self.guild.channels.get(channel_id) or self.direct.get(channel_id)

    def keep_file(self, channel_id: int, attachment: Attachment) -> None:
        """Keep a file that belongs to no message: what somebody gave a command."""
        self._files[channel_id, attachment.id] = attachment
        while len(self._files) > MAX_KEPT_FILES:
            del self._files[next(iter(self._files))]

    def file(self, channel_id: int, attachment_id: int) -> Attachment | None:
        """A file of a message in this channel, or one given to a command there."""
        channel = self.channel(channel_id)
        messages = channel.messages.values() if channel is not None else ()
        found = (a for message in messages for a in message.attachments if a.id == attachment_id)
        return next(found, None) or self._files.get((channel_id, attachment_id))

    def direct_channel_id(self, one: User, other: User) -> int:
        """The id of the direct messages between two accounts, always the same."""
        low, high = sorted((one.id, other.id))
        return low + 1_000_000 + high % 1_000

    def direct_channel(self, one: User, other: User) -> Channel:
        """The direct messages between two accounts, opened if needed."""
        channel_id = self.direct_channel_id(one, other)
        return self.direct.setdefault(channel_id, Channel(id=channel_id, type=1, recipients=[one, other]))


def as_id(value: object) -> int:
    """An id that came over the wire as text or number; 0, which nothing has, for anything else."""
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= 20 else 0


def new_token(user_id: int) -> str:
    """A secret in the shape of Discord's: the id in base64, a time and a random part."""
    head = b64encode(str(user_id).encode()).decode().rstrip("=")
    return f"{head}.{secrets.token_urlsafe(5)[:6]}.{secrets.token_urlsafe(29)[:38]}"
