"""The two buttons of a blind duel. Neither says which model is which.

They have fixed ids and are answered by one persistent view, so that a vote counts after a restart as before it; the
view that is sent is only drawn.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import discord

from bot.ui.views import Interaction, View

Choice = Literal["A", "B"]

CHOICES: tuple[Choice, ...] = ("A", "B")


class BallotView(View):
    """Two buttons; `vote` answers both."""

    def __init__(self, vote: Callable[[Interaction, Choice], Awaitable[None]]) -> None:
        super().__init__(timeout=None)
        for choice in CHOICES:
            self.add_item(_Button(choice, vote))


class _Button(discord.ui.Button[BallotView]):
    def __init__(self, choice: Choice, vote: Callable[[Interaction, Choice], Awaitable[None]]) -> None:
        super().__init__(label=f"{choice} is funnier", custom_id=f"duel:{choice}")
        self._choice, self._vote = choice, vote

    async def callback(self, interaction: Interaction) -> None:
        await self._vote(interaction, self._choice)


def drawn() -> BallotView:
    """Return buttons to send; presses go to the persistent view, as they will after a restart."""

    async def never(interaction: Interaction, choice: Choice) -> None:
        raise AssertionError("a view that has stopped is not asked")

    view = BallotView(never)
    view.stop()
    return view
