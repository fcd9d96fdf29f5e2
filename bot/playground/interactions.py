"""Interactions as people start them: a command, a click, a field being typed, a submitted form.

    person ── POST /interactions ──► open ── INTERACTION_CREATE ──► bot
                                      │ acknowledged within 3 s  → INTERACTION_SUCCESS to the person
                                      └ not                      → INTERACTION_FAILURE ("did not respond")

What the bot answers is in `bot.playground.responses`.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from bot.playground.commands import CHAT_INPUT, MESSAGE, USER_OPTION, Chosen, Commands
from bot.playground.errors import ApiError, FormError, missing_access, unknown
from bot.playground.files import Upload, make_attachment
from bot.playground.forms import read_form, select_values
from bot.playground.limits import MAX_FILE_BYTES, SELECTS, walk
from bot.playground.messages import Messages
from bot.playground.payloads import channel_payload, member_payload, message_payload, user_payload
from bot.playground.permissions import USE_APPLICATION_COMMANDS, channel_permissions
from bot.playground.sessions import Sessions
from bot.playground.world import Attachment, Channel, Message, User, World, as_id

Json = dict[str, Any]

COMMAND, COMPONENT, AUTOCOMPLETE, MODAL = 2, 3, 4, 5
TOKEN_LIFETIME_S = 15 * 60


@dataclass(slots=True, eq=False)
class Interaction:
    """One interaction; `original` is the bot's answer, `message` the one whose component was used."""

    id: int
    kind: int
    user: User
    channel: Channel
    nonce: str | None
    name: str = ""
    command_kind: int = CHAT_INPUT
    message: Message | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    created: float = field(default_factory=time.monotonic)
    status: str = "waiting"  # then acknowledged or failed
    deadline: asyncio.TimerHandle | None = None
    original: Message | None = None
    followups: dict[int, Message] = field(default_factory=dict)

    @property
    def expired(self) -> bool:
        """The token no longer works."""
        return time.monotonic() - self.created > TOKEN_LIFETIME_S


class Interactions:
    """Every interaction that may still be answered, and the forms people have open."""

    def __init__(self, world: World, sessions: Sessions, messages: Messages, commands: Commands) -> None:
        self._world = world
        self._sessions = sessions
        self._messages = messages
        self._commands = commands
        self._open: dict[int, Interaction] = {}
        self._forms: dict[tuple[int, str], tuple[Interaction, Json]] = {}
        self.acknowledge_within_s = 3.0

    def find(self, interaction_id: int) -> Interaction | None:
        """The interaction with this id, unless it is long over."""
        return self._open.get(interaction_id)

    def by_token(self, token: str) -> Interaction | None:
        """The interaction whose webhook this token is."""
        return next((i for i in self._open.values() if secrets.compare_digest(i.token, token)), None)

    def show_form(self, interaction: Interaction, form: Json) -> None:
        """A form the bot opens for the person; it stays open until they submit it."""
        self._forms[interaction.user.id, form["custom_id"]] = (interaction, form)
        shown = {
            "id": str(interaction.id),
            "nonce": interaction.nonce,
            "channel_id": str(interaction.channel.id),
            "application": {"id": str(self._world.bot.id), "name": self._world.bot.username},
            **form,
        }
        self.tell(interaction, "INTERACTION_MODAL_CREATE", shown)

    def tell(self, interaction: Interaction, event: str, more: Json | None = None) -> None:
        """An event about the interaction, for the person who started it."""
        payload = {"id": str(interaction.id), "nonce": interaction.nonce} | (more or {})
        self._sessions.publish(event, payload, to=[interaction.user])

    def start(self, user: User, body: Json, uploads: list[Upload]) -> None:
        """Check what a person sent and hand it to the bot."""
        channel = self._channel(user, body)
        nonce = body.get("nonce")
        interaction = Interaction(
            self._world.new_id(), as_id(body.get("type")), user, channel, None if nonce is None else str(nonce)
        )
        given = body.get("data")
        if not isinstance(given, dict):
            raise FormError("data", "BASE_TYPE_REQUIRED", "This field is required")
        files = {upload.index: self._store(channel, upload) for upload in uploads}
        chosen = Chosen(self._world, channel, user, files)
        if interaction.kind in (COMMAND, AUTOCOMPLETE):
            content = self._command(interaction, given, chosen)
        elif interaction.kind == COMPONENT:
            content = self._component(interaction, given, body, chosen)
        elif interaction.kind == MODAL:
            content = self._form(interaction, given, chosen)
        else:
            raise FormError("type", "BASE_TYPE_CHOICES", "Value must be one of (2, 3, 4, 5).")
        if chosen.resolved:
            content["resolved"] = chosen.resolved
        self._hand_over(interaction, content)

    def _channel(self, user: User, body: Json) -> Channel:
        channel = self._world.channel(as_id(body.get("channel_id")))
        if channel is None:
            raise unknown("Channel")
        if str(body.get("application_id", self._world.bot.id)) != str(self._world.bot.id):
            raise unknown("Application")
        if channel.is_dm and self._world.bot not in channel.recipients:
            raise unknown("Application")
        if not channel_permissions(self._world, user, channel) & USE_APPLICATION_COMMANDS:
            raise missing_access()
        return channel

    def _store(self, channel: Channel, upload: Upload) -> Attachment:
        if len(upload.body) > MAX_FILE_BYTES:
            raise ApiError(413, 40005, "Request entity too large")
        attachment = make_attachment(self._world.new_id(), upload, None, None)
        self._world.keep_file(channel.id, attachment)
        return attachment

    # the four kinds

    def _command(self, interaction: Interaction, given: Json, chosen: Chosen) -> Json:
        command = self._commands.find(as_id(given.get("id")), interaction.user)
        interaction.name, interaction.command_kind = command["name"], command["type"]
        content: Json = {"id": command["id"], "name": command["name"], "type": command["type"]}
        if "guild_id" in command:
            content["guild_id"] = command["guild_id"]
        if command["type"] == CHAT_INPUT:
            partial = interaction.kind == AUTOCOMPLETE
            options = chosen.options(given.get("options") or [], command["options"], partial=partial)
            return content | {"options": options}
        target = as_id(given.get("target_id"))
        content["target_id"] = str(target)
        if command["type"] == MESSAGE:
            message = self._messages.get(interaction.channel, target, interaction.user)
            payload = message_payload(self._world, message, self._world.bot)
            chosen.resolved["messages"] = {str(target): payload}
        else:
            chosen.resolve("data.target_id", USER_OPTION, target)
        return content

    def _component(self, interaction: Interaction, given: Json, body: Json, chosen: Chosen) -> Json:
        message = self._messages.get(interaction.channel, as_id(body.get("message_id")), interaction.user)
        if message.author is not self._world.bot:
            raise unknown("Message")
        custom_id = given.get("custom_id")
        found = next((c for c in walk(message.components) if c.get("custom_id") == custom_id and custom_id), None)
        if found is None or found.get("disabled"):
            raise FormError("data.custom_id", "COMPONENT_VALIDATION_FAILED", "Component validation failed")
        interaction.message = message
        content: Json = {"component_type": found["type"], "custom_id": custom_id, "id": found["id"]}
        if found["type"] in SELECTS:
            content["values"] = select_values("data.values", found, given.get("values"), chosen)
        return content

    def _form(self, interaction: Interaction, given: Json, chosen: Chosen) -> Json:
        opened = self._forms.get((interaction.user.id, str(given.get("custom_id"))))
        if opened is None or opened[0].channel is not interaction.channel:
            raise unknown("interaction")
        source, form = opened
        interaction.message, interaction.name = source.message, form["custom_id"]
        return {"custom_id": form["custom_id"], "components": read_form(form, given.get("components"), chosen)}

    # handing over

    def _hand_over(self, interaction: Interaction, content: Json) -> None:
        for old in [i for i in self._open.values() if i.expired]:
            del self._open[old.id]
        self._open[interaction.id] = interaction
        self.tell(interaction, "INTERACTION_CREATE")
        if not self._sessions.is_online(self._world.bot):
            self._fail(interaction)
            return
        loop = asyncio.get_running_loop()
        interaction.deadline = loop.call_later(self.acknowledge_within_s, self._fail, interaction)
        self._sessions.publish("INTERACTION_CREATE", self._payload(interaction, content), to=[self._world.bot])

    def acknowledge(self, interaction: Interaction) -> None:
        """The bot answered in time."""
        interaction.status = "acknowledged"
        if interaction.deadline is not None:
            interaction.deadline.cancel()
        if interaction.kind == MODAL:
            self._forms.pop((interaction.user.id, interaction.name), None)
        self.tell(interaction, "INTERACTION_SUCCESS")

    def _fail(self, interaction: Interaction) -> None:
        interaction.status = "failed"
        self.tell(interaction, "INTERACTION_FAILURE", {"reason_code": 2})

    def close(self) -> None:
        """Stop every timer."""
        for interaction in self._open.values():
            if interaction.deadline is not None:
                interaction.deadline.cancel()

    def _payload(self, interaction: Interaction, content: Json) -> Json:
        """The interaction object, with the person's real permissions in this channel."""
        world, channel, user = self._world, interaction.channel, interaction.user
        permissions = str(channel_permissions(world, user, channel))
        payload: Json = {
            "id": str(interaction.id),
            "application_id": str(world.bot.id),
            "type": interaction.kind,
            "token": interaction.token,
            "version": 1,
            "data": content,
            "channel_id": str(channel.id),
            "channel": channel_payload(world, channel, user) | {"permissions": permissions},
            "app_permissions": str(channel_permissions(world, world.bot, channel)),
            "locale": "en-US",
            "entitlements": [],
            "authorizing_integration_owners": {"0": "0" if channel.is_dm else str(world.guild.id)},
            "context": 1 if channel.is_dm else 0,
            "attachment_size_limit": MAX_FILE_BYTES,
        }
        if interaction.message is not None:
            payload["message"] = message_payload(world, interaction.message, world.bot)
        if channel.is_dm:
            return payload | {"user": user_payload(user)}
        member = member_payload(world.guild.members[user.id]) | {"permissions": permissions}
        guild = {"id": str(world.guild.id), "locale": "en-US", "features": []}
        return payload | {
            "member": member,
            "guild_id": guild["id"],
            "guild": guild,
            "guild_locale": "en-US",
        }
