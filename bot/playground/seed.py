"""What the playground starts with: a comedy server, a member, a moderator and the bot."""

from datetime import UTC, datetime

from bot.playground import permissions as bits
from bot.playground.world import Channel, Guild, Member, Overwrite, Role, User, World, new_token

GUILD_ID = 1300000000000000100
OWNER_ID = 1300000000000000001  # the account that set the server up; it never visits
ROBIN_ID = 1300000000000000002
MORGAN_ID = 1300000000000000003
BOT_ID = 1300000000000000004
APPLICATION_ID = BOT_ID

MODERATORS_ID = GUILD_ID + 1
BOT_ROLE_ID = GUILD_ID + 2
REGULARS_ID = GUILD_ID + 3

FOUNDED = datetime(2024, 10, 27, 12, tzinfo=UTC)


def build_world() -> World:
    """A fresh world with new tokens and no messages."""
    robin = User(ROBIN_ID, "robin", "Robin", new_token(ROBIN_ID), "robin")
    morgan = User(MORGAN_ID, "morgan", "Morgan", new_token(MORGAN_ID), "morgan")
    bot = User(BOT_ID, "Punchline", None, new_token(BOT_ID), "punchline", bot=True)
    guild = Guild(GUILD_ID, "The Comedy Club", OWNER_ID, FOUNDED)
    for role in _roles():
        guild.roles[role.id] = role
    for user, role_id in ((robin, REGULARS_ID), (morgan, MODERATORS_ID), (bot, BOT_ROLE_ID)):
        guild.members[user.id] = Member(user, [role_id], FOUNDED)
    for channel in _channels():
        guild.channels[channel.id] = channel
    return World(guild, robin, morgan, bot)


def _roles() -> list[Role]:
    return [
        Role(GUILD_ID, "@everyone", bits.TALK | bits.CREATE_INVITE | bits.CHANGE_NICKNAME, 0),
        Role(REGULARS_ID, "Regulars", 0, 1, colour=0x57C78A, hoist=True),
        Role(BOT_ROLE_ID, "Punchline", bits.TALK, 2, colour=0xF2B84B, bot_id=BOT_ID),
        Role(MODERATORS_ID, "Moderators", bits.TALK | bits.MODERATE, 3, colour=0xE879A6, hoist=True),
    ]


def _channels() -> list[Channel]:
    stage, backstage = GUILD_ID + 10, GUILD_ID + 20
    speak, view = bits.SEND_MESSAGES, bits.VIEW_CHANNEL
    only_moderators_speak = [
        Overwrite(GUILD_ID, 0, deny=speak),
        Overwrite(MODERATORS_ID, 0, allow=speak),
    ]
    only_moderators_see = [
        Overwrite(GUILD_ID, 0, deny=view),
        Overwrite(MODERATORS_ID, 0, allow=view),
        Overwrite(BOT_ROLE_ID, 0, allow=view),
    ]
    return [
        Channel(stage, 4, "On stage", position=0),
        Channel(stage + 1, 0, "general", "Say hello, ask for a joke: !joke or /joke", 0, stage),
        Channel(stage + 2, 0, "jokes", "The good ones, the bad ones, and the ones that need explaining", 1, stage),
        Channel(stage + 3, 0, "bot-testing", "Try every command here", 2, stage),
        Channel(backstage, 4, "Backstage", position=1),
        Channel(backstage + 1, 0, "announcements", "Only moderators write here", 3, backstage, only_moderators_speak),
        Channel(backstage + 2, 0, "moderators", "Hidden from members", 4, backstage, only_moderators_see),
    ]


FIRST_CHANNEL_ID = GUILD_ID + 11
