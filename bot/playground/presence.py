"""Who is online: people always, the bot while it is connected; and which bot is told so."""

from typing import Any

from bot.playground.sessions import GUILD_PRESENCES, Session, Sessions
from bot.playground.world import Member, User, World

Json = dict[str, Any]


class Presence:
    """The status of every account, as the gateway shows it."""

    def __init__(self, world: World, sessions: Sessions) -> None:
        self._world = world
        self._sessions = sessions
        self._status: dict[int, str] = {}

    def set(self, user: User, presence: object) -> None:
        """What the account says of itself: online unless it names another status."""
        status = presence.get("status") if isinstance(presence, dict) else None
        status = "offline" if status == "invisible" else status
        self._status[user.id] = status if status in ("idle", "dnd", "offline") else "online"

    def announce(self, user: User) -> None:
        """Tell everybody else whether this account is there."""
        others = [other for other in self._world.users if other is not user]
        self._sessions.publish("PRESENCE_UPDATE", self._payload(user), to=others, intent=GUILD_PRESENCES)

    def members_for(self, session: Session) -> list[Member]:
        """The members GUILD_CREATE names: without the presence intent a bot learns only of itself."""
        members = list(self._world.guild.members.values())
        if session.intents & GUILD_PRESENCES:
            return members
        return [member for member in members if member.user is session.user]

    def all_for(self, session: Session) -> list[Json]:
        """Everybody's presence, or nobody's without the intent."""
        return [self._payload(user) for user in self._world.users] if session.intents & GUILD_PRESENCES else []

    def _payload(self, user: User) -> Json:
        online = not user.bot or self._sessions.is_online(user)
        status = self._status.get(user.id, "online") if online else "offline"
        return {
            "user": {"id": str(user.id)},
            "guild_id": str(self._world.guild.id),
            "status": status,
            "activities": [],
            "client_status": {"desktop": status} if online else {},
        }
