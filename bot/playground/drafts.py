"""Reads the body of a request that sends or edits a message, checks it, and writes it into a message."""

import re
from dataclasses import dataclass, field
from typing import Any

from bot.playground.errors import ApiError, FormError
from bot.playground.files import Upload, make_attachment
from bot.playground.limits import (
    MAX_FILE_BYTES,
    MAX_FILES,
    check_components,
    check_content,
    check_count,
    check_embeds,
)
from bot.playground.permissions import MENTION_EVERYONE, channel_permissions
from bot.playground.world import COMPONENTS_V2, EPHEMERAL, LOADING, Attachment, Message, User, World, as_id

Json = dict[str, Any]

SUPPRESS_EMBEDS = 1 << 2
SUPPRESS_NOTIFICATIONS = 1 << 12
SENDABLE_FLAGS = SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS | COMPONENTS_V2 | EPHEMERAL


@dataclass(frozen=True, slots=True)
class Draft:
    """A request's body and its files, not yet checked against the message it is for."""

    body: Json
    uploads: list[Upload] = field(default_factory=list)

    @property
    def flags(self) -> int:
        """The flags a sender may set."""
        flags = self.body.get("flags") or 0
        if not isinstance(flags, int):
            raise FormError("flags", "NUMBER_TYPE_COERCE", "Value is not int.")
        return flags & SENDABLE_FLAGS


def apply(world: World, draft: Draft, message: Message, *, replied_to: Message | None = None) -> None:
    """Write what the draft names into the message; what it leaves out stays.

    Raises FormError for a broken limit and ApiError 50006 when nothing would be left to show.
    """
    body = draft.body
    if body.get("poll"):
        raise FormError("poll", "POLL_NOT_SUPPORTED", "The playground has no polls.")
    flags = message.flags & ~LOADING
    if "flags" in body:
        flags = flags & ~(SENDABLE_FLAGS & ~EPHEMERAL) | draft.flags & ~EPHEMERAL
    attachments = _attachments(world, draft, message)
    content = check_content(body["content"]) if "content" in body else message.content
    embeds = check_embeds(body["embeds"]) if "embeds" in body else message.embeds
    components = message.components
    if "components" in body:
        components = check_components(body["components"], v2=bool(flags & COMPONENTS_V2))
    if flags & COMPONENTS_V2 and (content or embeds):
        raise FormError("content", "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", "Not with components V2")
    if not (content or embeds or components or attachments):
        raise ApiError(400, 50006, "Cannot send an empty message")
    _mention(world, message, content, body.get("allowed_mentions"), replied_to)
    message.content, message.components, message.attachments = content, components, attachments
    message.embeds = [_with_files(world, embed, message) for embed in embeds]
    message.flags = flags


def _attachments(world: World, draft: Draft, message: Message) -> list[Attachment]:
    """The attachments the message will have: those kept of the old, then the new."""
    if len(draft.uploads) > MAX_FILES:
        raise FormError("attachments", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_FILES} or fewer in length.")
    if any(len(upload.body) > MAX_FILE_BYTES for upload in draft.uploads):
        raise ApiError(413, 40005, "Request entity too large")
    listed = draft.body.get("attachments")
    named: dict[str, Json] = {}
    kept = message.attachments
    if listed is not None:
        named = {str(entry.get("id")): entry for entry in check_count("attachments", listed, MAX_FILES)}
        kept = [a for a in message.attachments if str(a.id) in named]
    new = [
        make_attachment(
            world.new_id(),
            upload,
            named.get(upload.index, {}).get("filename"),
            named.get(upload.index, {}).get("description"),
        )
        for upload in draft.uploads
    ]
    return kept + new


def _with_files(world: World, embed: Json, message: Message) -> Json:
    """The embed with `attachment://name` replaced by the file's address and size."""
    by_name = {attachment.filename: attachment for attachment in message.attachments}
    resolved = dict(embed)
    for name in ("image", "thumbnail"):
        picture = embed.get(name)
        if not picture or not str(picture.get("url", "")).startswith("attachment://"):
            continue
        attachment = by_name.get(picture["url"].removeprefix("attachment://"))
        if attachment is None:
            continue
        url = f"{world.base_url}/attachments/{message.channel.id}/{attachment.id}/{attachment.filename}"
        resolved[name] = {"url": url, "proxy_url": url}
        if attachment.size is not None:
            resolved[name]["width"], resolved[name]["height"] = attachment.size
        if attachment.description:
            resolved[name]["description"] = attachment.description
    return resolved


def _mention(world: World, message: Message, text: str, allowed: Json | None, replied_to: Message | None) -> None:
    """Work out whom the message pings: those it names, less those `allowed_mentions` leaves out."""
    user_ids = {int(found) for found in re.findall(r"<@!?(\d{15,20})>", text)}
    role_ids = {int(found) for found in re.findall(r"<@&(\d{15,20})>", text)}
    may_everyone = channel_permissions(world, message.author, message.channel) & MENTION_EVERYONE
    everyone = bool(may_everyone) and re.search(r"@(everyone|here)\b", text) is not None
    if allowed is not None:
        parse = allowed.get("parse") or []
        for kind in ("users", "roles"):
            if kind in parse and allowed.get(kind):
                raise FormError("allowed_mentions", "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE", f"{kind} twice")
        user_ids = _allowed(user_ids, parse, allowed, "users")
        role_ids = _allowed(role_ids, parse, allowed, "roles")
        everyone = everyone and "everyone" in parse
    if replied_to is not None and (allowed is None or allowed.get("replied_user")):
        user_ids.add(replied_to.author.id)
    message.mentions = [user for user in _people(world, message) if user.id in user_ids]
    message.mention_role_ids = [role_id for role_id in world.guild.roles if role_id in role_ids]
    message.mention_everyone = everyone


def _allowed(found: set[int], parse: list[str], allowed: Json, kind: str) -> set[int]:
    if kind in parse:
        return found
    return found & {as_id(listed) for listed in allowed.get(kind) or []}


def _people(world: World, message: Message) -> tuple[User, ...]:
    return tuple(message.channel.recipients) if message.channel.is_dm else world.users
