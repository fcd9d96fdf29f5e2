"""The application's commands: registered by the bot, listed for people, and matched with what they chose."""

import re
from typing import Any

from bot.playground.errors import ApiError, FormError, unknown
from bot.playground.limits import check_count, check_length
from bot.playground.payloads import attachment_payload, channel_payload, member_payload, role_payload, user_payload
from bot.playground.permissions import channel_permissions, guild_permissions
from bot.playground.world import Attachment, Channel, User, World, as_id

Json = dict[str, Any]

CHAT_INPUT, USER, MESSAGE = 1, 2, 3
SUBCOMMAND, GROUP = 1, 2
STRING, INTEGER, BOOLEAN, USER_OPTION, CHANNEL_OPTION, ROLE, MENTIONABLE, NUMBER, ATTACHMENT = range(3, 12)

NAME = re.compile(r"[-_'\w]{1,32}")


class Commands:
    """Global commands and those of the guild; a `PUT` replaces one scope, as discord.py's sync does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scopes: dict[int | None, dict[int, Json]] = {None: {}, world.guild.id: {}}

    def all(self, scope: int | None) -> list[Json]:
        """The commands of one scope: None is global, else the guild."""
        return list(self._scopes[scope].values())

    def get(self, scope: int | None, command_id: int) -> Json:
        """One command of a scope, else 10063."""
        command = self._scopes[scope].get(command_id)
        if command is None:
            raise unknown("application command")
        return command

    def replace(self, scope: int | None, bodies: object) -> list[Json]:
        """Replace every command of a scope; those whose name and type stay keep their id."""
        checked = [self._checked(body) for body in check_count("commands", bodies, 110)]
        names = [(command["name"], command["type"]) for command in checked]
        if len(set(names)) != len(names):
            raise FormError("name", "APPLICATION_COMMANDS_DUPLICATE_NAME", "Option name already exists")
        old = {(command["name"], command["type"]): command["id"] for command in self.all(scope)}
        self._scopes[scope] = {}
        for command in checked:
            self._register(scope, command, old.get((command["name"], command["type"])))
        return self.all(scope)

    def upsert(self, scope: int | None, body: Json) -> Json:
        """Create one command, or replace the one of this name."""
        command = self._checked(body)
        same = [c for c in self.all(scope) if (c["name"], c["type"]) == (command["name"], command["type"])]
        return self._register(scope, command, same[0]["id"] if same else None)

    def edit(self, scope: int | None, command_id: int, body: Json) -> Json:
        """Change the given fields of one command."""
        command = self._checked({**self.get(scope, command_id), **body})
        return self._register(scope, command, str(command_id))

    def remove(self, scope: int | None, command_id: int) -> None:
        """Delete one command."""
        self.get(scope, command_id)
        del self._scopes[scope][command_id]

    def visible_to(self, user: User) -> list[Json]:
        """What the picker shows: guild commands hide global ones of the same name; no rights, no command."""
        chosen: dict[tuple[str, int], Json] = {}
        for scope in (None, self._world.guild.id):
            for command in self.all(scope):
                chosen[command["name"], command["type"]] = command
        return [command for command in chosen.values() if self._may_use(command, user)]

    def find(self, command_id: int, user: User) -> Json:
        """The command a person chose, else 10063; 50013 when their roles do not allow it."""
        for scope in self._scopes.values():
            if command_id in scope:
                if not self._may_use(scope[command_id], user):
                    raise ApiError(403, 50013, "Missing Permissions")
                return scope[command_id]
        raise unknown("application command")

    def _may_use(self, command: Json, user: User) -> bool:
        needed = command["default_member_permissions"]
        if needed is None:
            return True
        bits = guild_permissions(self._world, user)
        return int(needed) != 0 and bits & int(needed) == int(needed)

    def _register(self, scope: int | None, command: Json, command_id: str | None) -> Json:
        command["id"] = command_id or str(self._world.new_id())
        command["version"] = str(self._world.new_id())
        command["application_id"] = str(self._world.bot.id)
        if scope is not None:
            command["guild_id"] = str(scope)
        self._scopes[scope][int(command["id"])] = command
        return command

    def _checked(self, body: object) -> Json:
        if not isinstance(body, dict):
            raise FormError("commands", "MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
        kind = body.get("type") or CHAT_INPUT
        check_length("name", body.get("name"), 32, 1)
        if kind == CHAT_INPUT:
            _check_named("", body)
            _check_options("options", body)
        return {
            "type": kind,
            "name": body["name"],
            "description": body.get("description") or "",
            "options": body.get("options") or [],
            "default_member_permissions": body.get("default_member_permissions"),
            "dm_permission": body.get("dm_permission", True),
            "contexts": body.get("contexts"),
            "integration_types": body.get("integration_types") or [0],
            "nsfw": bool(body.get("nsfw")),
            "name_localizations": body.get("name_localizations"),
            "description_localizations": body.get("description_localizations"),
        }


def _check_named(path: str, body: Json) -> None:
    check_length(f"{path}name", body.get("name"), 32, 1)
    if not NAME.fullmatch(body["name"]) or body["name"] != body["name"].lower():
        raise FormError(f"{path}name", "APPLICATION_COMMAND_INVALID_NAME", "Command name is invalid")
    check_length(f"{path}description", body.get("description"), 100, 1)


def _check_options(path: str, body: Json) -> None:
    optional_seen = False
    for index, option in enumerate(check_count(path, body.get("options") or [], 25)):
        here = f"{path}.{index}."
        _check_named(here, option)
        if option["type"] in (SUBCOMMAND, GROUP):
            _check_options(f"{here}options", option)
            continue
        if option.get("required") and optional_seen:
            raise FormError(
                f"{path}.{index}",
                "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID",
                "Required options must be placed before non-required options",
            )
        optional_seen = optional_seen or not option.get("required")
        check_count(f"{here}choices", option.get("choices") or [], 25)


class Chosen:
    """What a person filled in, checked against the command and resolved for the bot."""

    def __init__(self, world: World, channel: Channel, user: User, uploads: dict[str, Attachment]) -> None:
        self._world = world
        self._channel = channel
        self._user = user
        self._uploads = uploads
        self.resolved: dict[str, Json] = {}

    def options(self, given: object, known: list[Json], *, partial: bool) -> list[Json]:
        """The options as the bot gets them; `partial` while somebody is still typing (autocomplete)."""
        values = {option.get("name"): option for option in given} if isinstance(given, list) else {}
        for name in values:
            if all(option["name"] != name for option in known):
                raise FormError("data.options", "APPLICATION_COMMAND_UNKNOWN_OPTION", f"Unknown option {name}")
        chosen = []
        for option in known:
            value = values.get(option["name"])
            if value is None:
                if option.get("required") and not partial:
                    raise FormError(f"data.options.{option['name']}", "BASE_TYPE_REQUIRED", "This field is required")
                continue
            chosen.append(self._option(option, value, partial=partial))
        return chosen

    def _option(self, option: Json, given: Json, *, partial: bool) -> Json:
        kind = option["type"]
        chosen: Json = {"name": option["name"], "type": kind}
        if kind in (SUBCOMMAND, GROUP):
            return chosen | {
                "options": self.options(given.get("options"), option.get("options") or [], partial=partial)
            }
        if partial:
            focus = {"focused": True} if given.get("focused") else {}
            return chosen | {"value": given.get("value", "")} | focus
        return chosen | {"value": self._value(option, given.get("value"))}

    def _value(self, option: Json, value: Any) -> Any:
        path, kind = f"data.options.{option['name']}", option["type"]
        if kind == STRING:
            check_length(path, value, option.get("max_length", 6_000), option.get("min_length", 0))
        elif kind in (INTEGER, NUMBER):
            value = _number(path, option, value)
        elif kind == BOOLEAN:
            if not isinstance(value, bool):
                raise FormError(path, "BOOLEAN_TYPE_CONVERT", "Must be either true or false.")
        else:
            return self.resolve(path, kind, value)
        if option.get("choices") and value not in [choice["value"] for choice in option["choices"]]:
            raise FormError(path, "BASE_TYPE_CHOICES", "Value must be one of the choices.")
        return value

    def resolve(self, path: str, kind: int, value: Any) -> str:
        """Look a user, channel, role or file up and add it to `resolved`; returns its id."""
        key = str(value)
        number = as_id(value)
        user, channel = self._world.user(number), self._world.guild.channels.get(number)
        role = self._world.guild.roles.get(number)
        if user is not None and kind in (USER_OPTION, MENTIONABLE):
            self._add("users", key, user_payload(user))
            if not self._channel.is_dm:
                permissions = str(channel_permissions(self._world, user, self._channel))
                member = member_payload(self._world.guild.members[user.id], with_user=False)
                self._add("members", key, member | {"permissions": permissions})
        elif role is not None and kind in (ROLE, MENTIONABLE):
            self._add("roles", key, role_payload(role))
        elif channel is not None and kind == CHANNEL_OPTION:
            permissions = str(channel_permissions(self._world, self._user, channel))
            self._add("channels", key, channel_payload(self._world, channel, self._user) | {"permissions": permissions})
        elif kind == ATTACHMENT and key in self._uploads:
            attachment = self._uploads[key]
            payload = attachment_payload(self._world, self._channel.id, attachment)
            self._add("attachments", str(attachment.id), payload | {"ephemeral": True})
            return str(attachment.id)
        else:
            raise FormError(path, "BASE_TYPE_CHOICES", "Nothing with this id is here.")
        return key

    def _add(self, kind: str, key: str, payload: Json) -> None:
        self.resolved.setdefault(kind, {})[key] = payload


def _number(path: str, option: Json, value: Any) -> int | float:
    whole = option["type"] == INTEGER
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise FormError(path, "NUMBER_TYPE_COERCE", f"Value is not {'int' if whole else 'a number'}.")
    number: int | float = value
    if "min_value" in option and number < option["min_value"]:
        raise FormError(path, "NUMBER_TYPE_MIN", f"Value should be greater than or equal to {option['min_value']}.")
    if "max_value" in option and number > option["max_value"]:
        raise FormError(path, "NUMBER_TYPE_MAX", f"Value should be less than or equal to {option['max_value']}.")
    return number
