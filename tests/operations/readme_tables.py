"""The tables of README.md, made from the code. `python -m tests.operations.readme_tables` writes them in."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr
from typer.main import get_command

from bot.app import create_bot
from bot.cli import app
from bot.config import BotSettings, PlaygroundSettings, Settings
from bot.connection import connect
from bot.store import Store
from model_service.config import ModelSettings, ServiceSettings, TrainingSettings

README = Path(__file__).parents[2] / "README.md"


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


async def commands_table() -> list[str]:
    """Every command people can type, as the bot has it when it runs."""
    rows = [row("Command", "What it does"), "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        async with await Store.open(Path(folder) / "punchline.db") as store, connect(settings) as client:
            bot = create_bot(settings, store, client, playground=False)
            async with bot:
                for cog in bot.parts:
                    await bot.add_cog(cog)
                for command in sorted(bot.walk_commands(), key=lambda c: c.qualified_name):
                    if not command.hidden:
                        usage = f"{command.qualified_name} {command.usage or command.signature}".strip()
                        rows.append(row(f"`{usage}`", command.short_doc))
    return rows


def cli_table() -> list[str]:
    """Every command of `punchline`."""
    group: Any = get_command(app)
    rows = [row("Command", "What it does"), "|---|---|"]
    for name, command in group.commands.items():
        arguments = " ".join(f'"{p.name}"' for p in command.params if p.param_type_name == "argument")
        rows.append(row(f"`{f'punchline {name} {arguments}'.strip()}`", command.help))
    return rows


def settings_table() -> list[str]:
    """Every setting of punchline.toml."""
    rows = [row("Setting", "Default", "What it is"), "|---|---|---|"]
    home = Settings.model_fields["home"]
    rows.append(row("`home`", f"`{home.default}`", str(home.description)))
    for section, table in (("bot", BotSettings), ("playground", PlaygroundSettings), ("training", TrainingSettings)):
        rows += settings_rows(f"{section}.", table)
    rows += settings_rows("service.", ServiceSettings)
    rows += settings_rows("service.models[].", ModelSettings)
    return rows


def settings_rows(prefix: str, table: type[BaseModel]) -> Iterator[str]:
    for name, field in table.model_fields.items():
        assert field.description, f"{prefix}{name} has no description"
        default = "needed" if field.is_required() else shown(field.default)
        yield row(f"`{prefix}{name}`", default, field.description)


def shown(default: object) -> str:
    """A default as punchline.toml would have it."""
    assert not isinstance(default, SecretStr)
    if default is None or default in ((), {}):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def replace(text: str, name: str, rows: list[str]) -> str:
    """Put a table between its markers."""
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
    assert len(pattern.findall(text)) == 1, f"README.md needs one pair of markers for {name}"
    return pattern.sub(lambda found: found[1] + "\n".join(rows) + "\n" + found[2], text)


async def renewed(text: str) -> str:
    """README.md with its tables as the code has them now."""
    text = replace(text, "commands", await commands_table())
    text = replace(text, "cli", cli_table())
    return replace(text, "settings", settings_table())


if __name__ == "__main__":
    import asyncio

    README.write_text(asyncio.run(renewed(README.read_text())))
    click.echo("README.md: tables written")
