"""Who may do what where: Discord's permission bits and how roles and channel overwrites combine."""

from bot.playground.errors import missing_access, missing_permissions
from bot.playground.world import Channel, User, World

CREATE_INVITE = 1 << 0
KICK_MEMBERS = 1 << 1
BAN_MEMBERS = 1 << 2
ADMINISTRATOR = 1 << 3
MANAGE_CHANNELS = 1 << 4
MANAGE_GUILD = 1 << 5
ADD_REACTIONS = 1 << 6
VIEW_CHANNEL = 1 << 10
SEND_MESSAGES = 1 << 11
MANAGE_MESSAGES = 1 << 13
EMBED_LINKS = 1 << 14
ATTACH_FILES = 1 << 15
READ_MESSAGE_HISTORY = 1 << 16
MENTION_EVERYONE = 1 << 17
USE_EXTERNAL_EMOJIS = 1 << 18
CHANGE_NICKNAME = 1 << 26
MANAGE_ROLES = 1 << 28
USE_APPLICATION_COMMANDS = 1 << 31
MODERATE_MEMBERS = 1 << 40
ALL = (1 << 53) - 1

TALK = (
    VIEW_CHANNEL
    | SEND_MESSAGES
    | EMBED_LINKS
    | ATTACH_FILES
    | READ_MESSAGE_HISTORY
    | ADD_REACTIONS
    | USE_EXTERNAL_EMOJIS
    | USE_APPLICATION_COMMANDS
)
MODERATE = (
    KICK_MEMBERS
    | BAN_MEMBERS
    | MANAGE_CHANNELS
    | MANAGE_GUILD
    | MANAGE_MESSAGES
    | MENTION_EVERYONE
    | MANAGE_ROLES
    | MODERATE_MEMBERS
)


def guild_permissions(world: World, user: User) -> int:
    """The bits the member's roles give, before any channel overwrite; 0 for somebody who is not a member."""
    guild = world.guild
    member = guild.members.get(user.id)
    if member is None:
        return 0
    if user.id == guild.owner_id:
        return ALL
    bits = guild.roles[guild.id].permissions
    for role_id in member.role_ids:
        bits |= guild.roles[role_id].permissions
    return ALL if bits & ADMINISTRATOR else bits


def channel_permissions(world: World, user: User, channel: Channel) -> int:
    """The bits that hold in one channel; 0 when it cannot be seen."""
    if channel.is_dm:
        return TALK if user in channel.recipients else 0
    bits = guild_permissions(world, user)
    if bits == ALL or bits == 0:
        return bits
    role_ids = world.guild.members[user.id].role_ids
    by_role = [o for o in channel.overwrites if o.id in role_ids]
    everyone = [o for o in channel.overwrites if o.id == world.guild.id]
    own = [o for o in channel.overwrites if o.id == user.id]
    for overwrites in (everyone, by_role, own):
        for overwrite in overwrites:
            bits &= ~overwrite.deny
        for overwrite in overwrites:
            bits |= overwrite.allow
    return bits if bits & VIEW_CHANNEL else 0


def require(world: World, user: User, channel: Channel, needed: int) -> None:
    """Raise Discord's error unless `user` has every `needed` bit in `channel`."""
    bits = channel_permissions(world, user, channel)
    if not bits & VIEW_CHANNEL:
        raise missing_access()
    if bits & needed != needed:
        raise missing_permissions()
