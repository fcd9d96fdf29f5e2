"""Buttons and modals. Each says in a sentence what went wrong when it does, and checks who may use it on our side."""

from collections.abc import Awaitable, Callable
from typing import Any

import discord

from bot.errors import BadInput, NotAllowed
from bot.ui.failures import report_interaction
from bot.ui.replies import is_moderator

JOKE_LIMIT = 1000  # characters of a joke people may add

Interaction = discord.Interaction[Any]


class View(discord.ui.View):
    """A view whose failures are told to the person who pressed."""

    async def on_error(self, interaction: Interaction, error: Exception, item: discord.ui.Item[Any], /) -> None:
        """Say what went wrong."""
        await report_interaction(interaction, error)


class StopView(View):
    """One Stop button under a growing answer, for the person who asked and for moderators."""

    def __init__(self, asker_id: int, stop: Callable[[], None]) -> None:
        super().__init__(timeout=None)
        self._asker_id, self._stop = asker_id, stop

    @discord.ui.button(label="Stop", emoji="⏹️", style=discord.ButtonStyle.secondary)
    async def press(self, interaction: Interaction, button: discord.ui.Button["StopView"]) -> None:
        """Stop the answer; what is there so far stays."""
        permissions = interaction.permissions
        if interaction.user.id != self._asker_id and not (permissions.manage_messages or is_moderator(permissions)):
            raise NotAllowed("Only the person who asked, or a moderator, can stop this answer.")
        self._stop()
        await interaction.response.defer()


class ImportView(View):
    """The button that fills an empty collection, for moderators. `fill` takes the server's id, returns a sentence."""

    def __init__(self, fill: Callable[[int], Awaitable[str]]) -> None:
        super().__init__(timeout=24 * 3600)
        self._fill = fill

    @discord.ui.button(label="Import starter pack", emoji="📦", style=discord.ButtonStyle.primary)
    async def press(self, interaction: Interaction, button: discord.ui.Button["ImportView"]) -> None:
        """Import, and say how many came in where the button was."""
        if not is_moderator(interaction.permissions):
            raise NotAllowed("Only moderators (people who may manage the server) can import jokes.")
        assert interaction.guild_id is not None
        await interaction.response.defer()
        sentence = await self._fill(interaction.guild_id)
        self.stop()
        await interaction.edit_original_response(content=sentence, embed=None, view=None)


class ConfirmView(View):
    """One red button for what cannot be undone; only the person who asked can press it."""

    def __init__(self, asker_id: int, label: str, act: Callable[[], Awaitable[str]]) -> None:
        super().__init__(timeout=10 * 60)
        self._asker_id, self._act = asker_id, act
        self.press.label = label

    @discord.ui.button(label="Yes", style=discord.ButtonStyle.danger)
    async def press(self, interaction: Interaction, button: discord.ui.Button["ConfirmView"]) -> None:
        """Do it, and say what was done where the button was."""
        if interaction.user.id != self._asker_id:
            raise NotAllowed("Only the person who asked can confirm this.")
        await interaction.response.defer()
        sentence = await self._act()
        self.stop()
        await interaction.edit_original_response(content=sentence, embed=None, view=None)


class JokeModal(discord.ui.Modal, title="Add a joke"):
    """Asks for a joke and, separately and plainly, whether it may be used for training.

    save(interaction, text, consents) is called with what was entered.
    """

    def __init__(
        self, consent_text: str, save: Callable[[Interaction, str, bool], Awaitable[None]], *, draft: str = ""
    ) -> None:
        super().__init__(timeout=15 * 60)
        self._save = save
        self._text: discord.ui.TextInput[JokeModal] = discord.ui.TextInput(
            style=discord.TextStyle.paragraph,
            placeholder="Why did the chicken cross the road? …",
            default=draft[:JOKE_LIMIT] or None,
            max_length=JOKE_LIMIT,
            custom_id="joke",
        )
        self._choice: discord.ui.Select[JokeModal] = discord.ui.Select(
            custom_id="consent",
            placeholder="Choose one",
            required=True,
            options=[
                discord.SelectOption(label="Yes, I agree", value="yes", emoji="✅"),
                discord.SelectOption(label="No, only tell it", value="no", emoji="🚫"),
            ],
        )
        self.add_item(discord.ui.Label(text="Your joke", component=self._text))
        self.add_item(discord.ui.TextDisplay(consent_text))
        self.add_item(discord.ui.Label(text="Do you agree to this?", component=self._choice))

    async def on_submit(self, interaction: Interaction, /) -> None:
        """Hand over what was entered."""
        text = self._text.value.strip()
        if not text:
            raise BadInput("There was no joke in that. Use `/addjoke` again and write one.")
        await self._save(interaction, text, "yes" in self._choice.values)

    async def on_error(self, interaction: Interaction, error: Exception, /) -> None:  # type: ignore[override]
        """Say what went wrong."""
        await report_interaction(interaction, error)
