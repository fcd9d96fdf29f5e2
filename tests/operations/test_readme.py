"""README.md tells the truth: its tables are the code's, its links lead somewhere, its numbers are computed."""

import re
from pathlib import Path

import discord
import pytest

from tests.operations.readme_tables import README, cli_table, commands_table, settings_table

TEXT = README.read_text()
DOCS = [README, *sorted((README.parent / "docs").glob("*.md"))]


def table(name: str) -> list[str]:
    found = re.search(rf"<!-- {name}: [^\n]*-->\n(.*?)\n<!-- end -->", TEXT, re.DOTALL)
    assert found, f"README.md has no table of {name}"
    return found[1].splitlines()


HINT = "run: python -m tests.operations.readme_tables"


async def test_every_command_of_the_bot_is_in_the_readme_and_no_other() -> None:
    assert table("commands") == await commands_table(), HINT


def test_every_command_of_the_command_line_is_in_the_readme_and_no_other() -> None:
    assert table("cli") == cli_table(), HINT


def test_every_setting_is_in_the_readme_with_its_default_and_no_other() -> None:
    assert table("settings") == settings_table(), HINT


def test_the_invite_link_asks_for_the_permissions_it_names() -> None:
    named = discord.Permissions(
        view_channel=True,
        send_messages=True,
        send_messages_in_threads=True,
        embed_links=True,
        attach_files=True,
        read_message_history=True,
        add_reactions=True,
    )
    assert f"&permissions={named.value}\n" in TEXT


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(((?!https?:)[^)#]+)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_files_that_documents_name_are_there(document: Path) -> None:
    named = re.findall(r"`((?:bot|model_service|tests|docs)/[\w/.-]+)`", document.read_text())
    missing = [name for name in named if not (README.parent / name).exists()]
    assert not missing


def test_no_line_of_the_readme_promises_what_is_not_there() -> None:
    for command in re.findall(r"`(?:\.venv/bin/)?punchline ([a-z]+)", TEXT):
        assert f"`punchline {command}" in "\n".join(cli_table()), command
    targets = set(re.findall(r"^([a-z-]+):", (README.parent / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)`?(?: +#|`)", TEXT)) <= targets
