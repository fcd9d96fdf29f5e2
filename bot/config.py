"""The bot's settings: what both processes read (`model_service.config`) and the bot's own sections.

The token comes from `DISCORD_TOKEN` or from the file at `DISCORD_TOKEN_FILE`, in `.env` or the
environment; a file may also be named in punchline.toml (`discord_token_file`), the token itself may
not stand there, because the model service reads that file too. It is never logged or shown.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from model_service.config import CommonSettings, Section, load
from model_service.settings_sources import SettingsError


class BotSettings(Section):
    """The `[bot]` table."""

    prefix: Annotated[str, Field(description="What a typed command starts with.", min_length=1, max_length=10)] = "!"
    edit_interval_s: Annotated[float, Field(description="Least time between two edits of an answer.", gt=0)] = 1.2
    answer_timeout_s: Annotated[float, Field(description="Longest time an answer may take.", gt=0)] = 120.0
    joke_max_tokens: Annotated[int, Field(description="Longest joke, in tokens.", ge=1)] = 96
    complete_max_tokens: Annotated[int, Field(description="Length of a completion when none is asked for.", ge=1)] = 100
    complete_max_tokens_limit: Annotated[
        int, Field(description="Longest completion people may ask for.", ge=1, validate_default=True)
    ] = 500
    joke_candidates: Annotated[
        int, Field(description="Jokes drawn for each one told; votes choose among several.", ge=1, le=8)
    ] = 1
    joke_model: Annotated[str, Field(description="Model that tells jokes, until a server has its own.")] = "jokes-mini"
    complete_model: Annotated[str, Field(description="Model that continues texts.")] = "jokes-mini"
    sentiment_model: Annotated[str, Field(description="Model that reads a text's mood.")] = "sentiment-mini"
    temperature: Annotated[float, Field(description="How daring answers are; 0: always the likeliest.", ge=0, le=2)] = (
        0.8
    )
    top_p: Annotated[float, Field(description="Share of the likeliest tokens to draw from.", gt=0, le=1)] = 0.95
    duel_votes: Annotated[int, Field(description="Votes that end a duel.", ge=1)] = 5
    duel_s: Annotated[float, Field(description="Longest time a duel is open, in seconds.", gt=0)] = 600.0
    guild_ready_timeout_s: Annotated[float, Field(description="Wait for Discord's servers at the start.", gt=0)] = 2.0
    sync_commands: Annotated[bool, Field(description="Register the slash commands with Discord at the start.")] = True

    @field_validator("complete_max_tokens_limit")
    @classmethod
    def _limit_holds_for_the_default(cls, limit: int, seen: ValidationInfo) -> int:
        default = seen.data.get("complete_max_tokens", 0)
        if limit < default:
            raise ValueError(f"must be at least bot.complete_max_tokens, which is {default}")
        return limit


class PlaygroundSettings(Section):
    """The `[playground]` table."""

    port: Annotated[int, Field(description="Port of the page on 127.0.0.1; 0: any free one.", ge=0, le=65535)] = 8480


class Settings(CommonSettings):
    """Everything the bot process knows."""

    bot: BotSettings = BotSettings()
    playground: PlaygroundSettings = PlaygroundSettings()
    discord_token: SecretStr | None = None
    discord_token_file: Annotated[Path | None, Field(description="File that holds the bot's token.")] = None


def load_settings() -> Settings:
    """Load the bot's settings from the working directory and the environment; raises SettingsError."""
    settings = load(Settings, os.environ, Path.cwd(), extra=_token_of)
    if settings.discord_token is None and settings.discord_token_file is not None:
        token = _read_token(settings.discord_token_file)
        return settings.model_copy(update={"discord_token": token})
    return settings


def _token_of(variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Take the token of one source; naming one of the two ways overrides both ways of the sources below."""
    token, file = variables.get("DISCORD_TOKEN"), variables.get("DISCORD_TOKEN_FILE")
    if token and file:
        raise SettingsError(["DISCORD_TOKEN: set this or DISCORD_TOKEN_FILE, not both"])
    if not token and not file:
        return {}
    path = str((folder / Path(file).expanduser()).absolute()) if file else None
    return {"discord_token": _checked(token, "DISCORD_TOKEN") if token else None, "discord_token_file": path}


def _read_token(path: Path) -> SecretStr:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError([f"DISCORD_TOKEN_FILE: {path} cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError:
        raise SettingsError([f"DISCORD_TOKEN_FILE: {path} does not hold a token"]) from None
    if not text.strip():
        raise SettingsError([f"DISCORD_TOKEN_FILE: {path} is empty"])
    return _checked(text, f"DISCORD_TOKEN_FILE: {path}")


def _checked(token: str, where: str) -> SecretStr:
    """Refuse what cannot be a token, such as a copied sentence, without showing it."""
    token = token.strip()
    if not token or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise SettingsError([f"{where}: does not hold a token; copy it again from the developer portal"])
    return SecretStr(token)
