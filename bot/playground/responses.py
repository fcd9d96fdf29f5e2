"""What the bot answers to an interaction: the first response, and everything it sends with the token after it."""

from datetime import UTC, datetime
from typing import Any

from bot.playground.commands import CHAT_INPUT
from bot.playground.drafts import Draft, apply
from bot.playground.errors import ApiError, FormError, unknown
from bot.playground.forms import check_form
from bot.playground.interactions import AUTOCOMPLETE, COMMAND, MODAL, Interaction, Interactions
from bot.playground.limits import check_count, check_length
from bot.playground.messages import REPLY, Messages
from bot.playground.payloads import message_payload, user_payload
from bot.playground.world import EPHEMERAL, LOADING, Message, World

Json = dict[str, Any]

SEND, DEFER, DEFER_UPDATE, UPDATE, CHOICES, FORM = 4, 5, 6, 7, 8, 9
SLASH_ANSWER, MENU_ANSWER = 20, 23
ORIGINAL = "@original"


class Responses:
    """The bot's side of interactions."""

    def __init__(self, world: World, messages: Messages, interactions: Interactions) -> None:
        self._world = world
        self._messages = messages
        self._interactions = interactions

    def respond(self, interaction_id: int, token: str, draft: Draft) -> Json:
        """The first response (`callback`); returns the callback object. A second one is refused with 40060."""
        interaction = self._interactions.find(interaction_id)
        if interaction is None or interaction.token != token or interaction.status == "failed":
            raise unknown("interaction")
        if interaction.status == "acknowledged":
            raise ApiError(400, 40060, "Interaction has already been acknowledged.")
        kind, content = draft.body.get("type"), draft.body.get("data") or {}
        self._check_kind(interaction, kind)
        inner = Draft(content, draft.uploads)
        if kind in (SEND, DEFER):
            interaction.original = self._new_message(interaction, inner, loading=kind == DEFER)
        elif kind == UPDATE:
            self._update(interaction, inner)
        elif kind == CHOICES:
            choices = check_count("data.choices", content.get("choices") or [], 25)
            for choice in choices:
                check_length("data.choices.name", choice.get("name"), 100, 1)
            told = {"choices": choices, "nonce": interaction.nonce}
            self._interactions.tell(interaction, "APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE", told)
        elif kind == FORM:
            self._interactions.show_form(interaction, check_form(content))
        self._interactions.acknowledge(interaction)
        return self._callback(interaction, int(kind or 0))

    def _check_kind(self, interaction: Interaction, kind: object) -> None:
        if interaction.kind == AUTOCOMPLETE:
            allowed = {CHOICES}
        else:
            allowed = {SEND, DEFER}
            if interaction.message is not None:
                allowed |= {DEFER_UPDATE, UPDATE}
            if interaction.kind != MODAL:
                allowed.add(FORM)
        if kind not in allowed:
            raise FormError("type", "BASE_TYPE_CHOICES", f"Value must be one of {sorted(allowed)}.")

    def _callback(self, interaction: Interaction, kind: int) -> Json:
        shown = interaction.original if kind in (SEND, DEFER) else interaction.message
        described: Json = {
            "id": str(interaction.id),
            "type": interaction.kind,
            "channel_id": str(interaction.channel.id),
        }
        resource: Json = {"type": kind}
        if shown is not None and kind in (SEND, DEFER, UPDATE):
            described["response_message_id"] = str(shown.id)
            described["response_message_loading"] = bool(shown.flags & LOADING)
            described["response_message_ephemeral"] = bool(shown.flags & EPHEMERAL)
            resource["message"] = message_payload(self._world, shown, self._world.bot)
        return {"interaction": described, "resource": resource}

    # after the first response

    def send(self, token: str, draft: Draft) -> Message:
        """A followup; the first one after a deferral takes the place of "is thinking"."""
        interaction = self._answered(token)
        original = interaction.original
        if original is not None and original.flags & LOADING:
            self._change(original, draft)
            return original
        message = self._new_message(interaction, draft, loading=False)
        interaction.followups[message.id] = message
        return message

    def message(self, token: str, which: str) -> Message:
        """`@original` or a followup by its id."""
        interaction = self._answered(token)
        if which == ORIGINAL:
            found = interaction.original or interaction.message
        else:
            number = int(which) if which.isdecimal() else 0
            known = [interaction.original, interaction.message, *interaction.followups.values()]
            found = next((m for m in known if m is not None and m.id == number), None)
        if found is None or found.id not in found.channel.messages:
            raise unknown("Message")
        return found

    def edit(self, token: str, which: str, draft: Draft) -> Message:
        """Change the original or a followup."""
        message = self.message(token, which)
        self._change(message, draft)
        return message

    def delete(self, token: str, which: str) -> None:
        """Delete the original or a followup."""
        self._messages.delete(self.message(token, which), self._world.bot)

    def payload(self, message: Message) -> Json:
        """The message as the bot gets it."""
        return message_payload(self._world, message, self._world.bot)

    def _answered(self, token: str) -> Interaction:
        interaction = self._interactions.by_token(token)
        if interaction is None or interaction.status != "acknowledged":
            raise unknown("Webhook")
        if interaction.expired:
            raise ApiError(401, 50027, "Invalid Webhook Token")
        return interaction

    def _update(self, interaction: Interaction, draft: Draft) -> None:
        assert interaction.message is not None
        if interaction.message.id not in interaction.message.channel.messages:
            raise unknown("Message")
        self._change(interaction.message, draft)

    def _change(self, message: Message, draft: Draft) -> None:
        was_loading = message.flags & LOADING
        apply(self._world, draft, message)
        if not was_loading:
            message.edited_at = datetime.now(UTC)
        self._messages.publish("MESSAGE_UPDATE", message)

    def _new_message(self, interaction: Interaction, draft: Draft, *, loading: bool) -> Message:
        ephemeral = bool(draft.flags & EPHEMERAL)
        message = Message(self._world.new_id(), interaction.channel, self._world.bot)
        message.type = SLASH_ANSWER if interaction.command_kind == CHAT_INPUT else MENU_ANSWER
        message.flags = (EPHEMERAL if ephemeral else 0) | (LOADING if loading else 0)
        message.visible_to = interaction.user.id if ephemeral else None
        message.interaction = self._metadata(interaction)
        self._refer(message, interaction)
        if not loading:
            apply(self._world, draft, message)
        self._messages.publish_new(message)
        return message

    def _refer(self, message: Message, interaction: Interaction) -> None:
        """Answers to a click, and followups, are shown as replies to the message they belong to."""
        source = interaction.original if interaction.original is not None else interaction.message
        if source is None and interaction.kind == COMMAND:
            return
        message.type = REPLY
        if source is not None and not source.flags & EPHEMERAL and source.id in source.channel.messages:
            message.reference = self._messages.reference_to(source)

    def _metadata(self, interaction: Interaction) -> Json:
        user = user_payload(interaction.user)
        metadata: Json = {
            "id": str(interaction.id),
            "type": interaction.kind,
            "user": user,
            "authorizing_integration_owners": {"0": str(self._world.guild.id)},
        }
        if interaction.message is not None:
            metadata["interacted_message_id"] = str(interaction.message.id)
        described: Json = {"interaction_metadata": metadata}
        if interaction.kind == COMMAND:
            metadata["name"] = interaction.name
            described["interaction"] = {
                "id": str(interaction.id),
                "type": interaction.kind,
                "name": interaction.name,
                "user": user,
            }
        return described
