"""discord.py's hybrid decorators with types mypy can follow; it infers `Never` for the originals' parameters."""

from collections.abc import Callable, Coroutine
from typing import Any, cast

from discord.ext import commands

Callback = Callable[..., Coroutine[Any, Any, None]]
Command = commands.HybridCommand[Any, ..., Any]
Group = commands.HybridGroup[Any, ..., Any]


def hybrid_command(description: str, **attributes: Any) -> Callable[[Callback], Command]:
    """Make a method a command, the same on prefix and slash."""
    return cast(Callable[[Callback], Command], commands.hybrid_command(description=description, **attributes))


def hybrid_group(description: str, **attributes: Any) -> Callable[[Callback], Group]:
    """Make a method the parent of subcommands; itself it runs for the bare prefix word (slash: `fallback`)."""
    return cast(Callable[[Callback], Group], commands.hybrid_group(description=description, **attributes))


def subcommand(group: Group, description: str, **attributes: Any) -> Callable[[Callback], Command]:
    """Make a method a subcommand of a group."""
    return cast(Callable[[Callback], Command], group.command(description=description, **attributes))
