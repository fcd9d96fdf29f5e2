"""`complete`: continues a text, which stands in bold before what the model adds."""

import re

from discord import app_commands
from discord.ext import commands

from bot.cogs.hybrid import hybrid_command
from bot.config import BotSettings
from bot.errors import BadInput
from bot.service_client import CompletionRequest, ServiceClient, user_key
from bot.ui.replies import Context
from bot.ui.streaming import Answers
from bot.ui.text import bold, sanitise

_TOKENS = re.compile(r"(?:--|—)tokens(?:\s+|=)(\S+)\s*")  # phones make a long dash of two


class CompleteCog(commands.Cog, name="Text"):
    """Continues texts."""

    def __init__(self, settings: BotSettings, client: ServiceClient, answers: Answers) -> None:
        self._settings, self._client, self._answers = settings, client, answers

    @hybrid_command("Continue a text.", usage="[--tokens 200] <text>")
    @app_commands.describe(text="The beginning.", tokens="How much to add, in tokens (about 4 letters each).")
    async def complete(self, ctx: Context, *, text: str, tokens: int | None = None) -> None:
        """Continue a text: `complete Once upon a time`, or `complete --tokens 200 Once upon a time`."""
        if ctx.interaction is None:
            text, tokens = split_tokens(text)
        prompt = text.strip()
        if not prompt:
            raise BadInput("I need the beginning of a text, such as “Once upon a time”.")
        request = CompletionRequest(
            self._settings.complete_model,
            prompt,
            max_tokens=self._checked(tokens),
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            user=user_key(ctx.guild.id if ctx.guild else None, ctx.author.id),
        )
        await self._answers.stream(ctx, self._client.complete(request), lambda added: joined(prompt, added))

    def _checked(self, tokens: int | None) -> int:
        limit = self._settings.complete_max_tokens_limit
        if tokens is None:
            return self._settings.complete_max_tokens
        if not 1 <= tokens <= limit:
            raise BadInput(f"I can add between 1 and {limit} tokens; you asked for {tokens}.")
        return tokens


def split_tokens(text: str) -> tuple[str, int | None]:
    """Take `--tokens N` off the beginning of a typed text; raises BadInput if N is not a number."""
    match = _TOKENS.match(text)
    if match is None:
        return text, None
    if re.fullmatch(r"-?[0-9]{1,9}", match[1]) is None:
        raise BadInput("After `--tokens` I need a number and then the text: `--tokens 200 Once upon a time`.")
    return text[match.end() :], int(match[1])


def joined(prompt: str, added: str) -> str:
    """Show a prompt in bold with its continuation, keeping the space or line break between them."""
    gap = added[: len(added) - len(added.lstrip())]
    between = "\n\n" if "\n\n" in gap else "\n" if "\n" in gap else " " if gap else ""
    return f"{bold(prompt)}{between}{sanitise(added.strip())}"
