"""Settings that both processes read: where state lives, which models, how the service is reached.

    punchline.toml  <  .env  <  environment (PUNCHLINE_<SECTION>__<NAME>)      the later source wins

The bot's settings (`bot.config`) add the bot's own sections to these. Unknown names are refused by name.
Built once, in `__main__`, by `load_settings`; nothing here is read at import, and a settings class called
by hand (`CommonSettings(home=folder)`, as tests do) reads no file and no environment.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from model_service.setting_types import Device, Devices, Size
from model_service.settings_sources import (
    FILE_NAME,
    SettingsError,
    describe,
    merge,
    read_env_file,
    read_file,
    read_variables,
)

SOCKET_PATH_LIMIT = 107  # bytes of a Unix socket's address on Linux, without its closing zero

Weights = Literal["auto", "float16", "bfloat16", "float32", "int8"]


class Section(BaseModel):
    """A table of punchline.toml: frozen, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(Section):
    """One `[[service.models]]` table."""

    name: Annotated[str, Field(description="What people choose it by.", min_length=1)]
    source: Annotated[
        str, Field(description="Hub id or folder, of a model in safetensors or of a PEFT LoRA adapter for another one.")
    ]
    task: Annotated[Literal["generate", "classify"], Field(description='"generate", or "classify".')] = "generate"
    weights: Annotated[
        Weights,
        Field(
            description="Number format: auto (float16 on a GPU; on a CPU what measures fastest), or one of "
            "float16, bfloat16, float32, int8 (int8 on a CPU only)."
        ),
    ] = "auto"
    devices: Annotated[
        Literal["auto"] | Devices,
        Field(
            description='"auto" (wherever `punchline plan` finds room), or the only ones it may go on: '
            '["cuda:0", "cuda:1"]; on one it stays whole.'
        ),
    ] = "auto"
    pinned: Annotated[
        bool, Field(description="Loaded at the start, whatever service.preload says; never leaves to make room.")
    ] = False


class ServiceSettings(Section):
    """The `[service]` table."""

    socket: Annotated[Path | None, Field(description="Unix socket; default `<home>/model.sock`.")] = None
    host: Annotated[str | None, Field(description="Listen on TCP instead; needs port and api_key.")] = None
    port: Annotated[int | None, Field(description="TCP port; needs host.", ge=1, le=65535, validate_default=True)] = (
        None
    )
    api_key: Annotated[SecretStr | None, Field(description="Bearer key, required over TCP.", validate_default=True)] = (
        None
    )
    max_queue: Annotated[
        int, Field(description="Requests that may wait, per model; more are told to come back.", ge=1)
    ] = 256
    max_num_seqs: Annotated[int, Field(description="Sequences that run at once, per model.", ge=1)] = 16
    answer_limit_s: Annotated[
        float, Field(description="Time an answer may take, its wait in the queue included.", gt=0)
    ] = 300.0
    preload: Annotated[
        bool, Field(description="Load the models at the start, as far as there is room; false: when first asked for.")
    ] = True
    load_limit_s: Annotated[
        float, Field(description="Time a request waits for its model to be loaded, room for it included.", gt=0)
    ] = 120.0
    shares: Annotated[
        dict[str, Annotated[float, Field(gt=0)]],
        Field(description='Who gets more of the model than others when many wait, by "guild" or "guild:user"; else 1.'),
    ] = {}
    threads: Annotated[int | None, Field(description="CPU threads for the answers; default: all cores.", ge=1)] = None
    memory_margin: Annotated[
        float, Field(description="Share of each device's memory that models leave alone.", ge=0, lt=1)
    ] = 0.05
    allow_cpu: Annotated[
        bool, Field(description="Put on the CPU what the GPUs have no room for; without a GPU it is used anyway.")
    ] = False
    device_memory: Annotated[
        dict[Device, Size],
        Field(
            description='The most that models may take of a device, as `{"cuda:0" = "8GiB"}`; '
            '`{"cpu:0" = "2GiB", "cpu:1" = "2GiB"}` makes two devices of the CPU.'
        ),
    ] = {}
    models: Annotated[
        tuple[ModelSettings, ...], Field(description="Models to hold, all of them; none: the two embedded ones.")
    ] = ()

    @field_validator("host")
    @classmethod
    def _socket_or_host(cls, host: str | None, seen: ValidationInfo) -> str | None:
        if host is not None and seen.data.get("socket") is not None:
            raise ValueError("cannot stand beside service.socket; choose one of the two")
        return host

    @field_validator("port")
    @classmethod
    def _host_and_port(cls, port: int | None, seen: ValidationInfo) -> int | None:
        if port is None and seen.data.get("host") is not None:
            raise ValueError("is missing; service.host needs it")
        if port is not None and "host" in seen.data and seen.data["host"] is None:
            raise ValueError("needs service.host beside it")
        return port

    @field_validator("api_key")
    @classmethod
    def _key_over_tcp(cls, key: SecretStr | None, seen: ValidationInfo) -> SecretStr | None:
        if key is None and seen.data.get("host") is not None:
            raise ValueError("is missing; over TCP everyone needs a key")
        return key

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are named {name!r}")
        return models


class TrainingSettings(Section):
    """The `[training]` table."""

    discord_permission: Annotated[
        str | None, Field(description="Discord's written permission to train on messages: reference and date.")
    ] = None
    auto_promote: Annotated[bool, Field(description="Use a tuned model at once when it passes the gate.")] = True
    threads: Annotated[
        int | None, Field(description="CPU threads of a training run; default: half the cores.", ge=1)
    ] = None
    nice: Annotated[int, Field(description="Niceness of a training run, 0 to 19.", ge=0, le=19)] = 10
    rest: Annotated[
        float,
        Field(
            description="While people are being answered a run rests after each step, this many times as long as the "
            "step took; 0: it does not.",
            ge=0,
            le=100,
        ),
    ] = 6.0
    processes: Annotated[
        int, Field(description="Processes of a training run, one for each GPU; torchrun starts several.", ge=1, le=64)
    ] = 1
    reserve: Annotated[
        Literal["auto", "none"] | Size,
        Field(
            description="Memory kept free for training on the first GPU, else the CPU: auto (enough for the smallest "
            "model's adapter), none, or an amount like 4GiB."
        ),
    ] = "auto"


class CommonSettings(BaseSettings):
    """What both processes know. Raises pydantic's ValidationError; `load` turns that into lines."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    home: Annotated[Path, Field(description="Where state lives; made if missing.")] = Path("var")
    service: ServiceSettings = ServiceSettings()
    training: TrainingSettings = TrainingSettings()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *args: Any, **others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller alone: `load` has already merged the sources."""
        return (init_settings,)

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @model_validator(mode="after")
    def _socket_path_fits(self) -> "CommonSettings":
        size = len(os.fsencode(self.socket_path))
        if self.service.host is None and size > SOCKET_PATH_LIMIT:
            raise ValueError(
                f"service.socket: the path has {size} bytes, and a Unix socket's may have {SOCKET_PATH_LIMIT}; "
                "choose a shorter one (or a shorter PUNCHLINE_HOME)"
            )
        return self

    @property
    def socket_path(self) -> Path:
        """The service's Unix socket, absolute."""
        return (self.service.socket or self.home / "model.sock").absolute()

    def make_home(self) -> None:
        """Make the home folder, for its owner alone, if it is missing; raises SettingsError if that fails."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError([f"home: {self.home} cannot be made: {error.strerror}"]) from error


class ServiceProcessSettings(CommonSettings):
    """What `python -m model_service` reads: the bot's part may stand there too, and is the bot's to check."""

    bot: dict[str, Any] = {}
    playground: dict[str, Any] = {}
    discord_token_file: Path | None = None


Loaded = TypeVar("Loaded", bound=CommonSettings)


def load(
    settings_type: type[Loaded],
    environ: Mapping[str, str],
    folder: Path,
    extra: Callable[[Mapping[str, str], Path], dict[str, Any]] = lambda variables, folder: {},
) -> Loaded:
    """Merge the sources and build the settings; raises SettingsError with one line per problem.

    `folder`: the working directory, where `punchline.toml` and `.env` are looked for.
    `extra`: what else a process takes from a source's variables (the bot: its token).
    """
    env_file = read_env_file(folder / ".env")
    values: dict[str, Any] = {}
    if (path := _file_path(environ.get("PUNCHLINE_CONFIG") or env_file.get("PUNCHLINE_CONFIG"), folder)) is not None:
        values = read_file(settings_type, path)
    if "discord_token" in values:
        raise SettingsError([f"discord_token: belongs in .env or in DISCORD_TOKEN, not in {path}"])
    for variables in (env_file, environ):
        values = merge(values, read_variables(settings_type, variables, folder))
        values = merge(values, extra(variables, folder))
    try:
        return settings_type(**values)
    except ValidationError as error:
        raise SettingsError(describe(settings_type, error)) from None  # the original would show values


def _file_path(named: str | None, folder: Path) -> Path | None:
    if not named:
        return folder / FILE_NAME if (folder / FILE_NAME).exists() else None
    path = folder / Path(named).expanduser()
    if not path.is_file():
        raise SettingsError([f"PUNCHLINE_CONFIG: there is no file {path}"])
    return path


def load_settings() -> CommonSettings:
    """Load what the service process needs, from the working directory and the environment."""
    return load(ServiceProcessSettings, os.environ, Path.cwd())


def settings_or_exit(load_them: Callable[[], Loaded], *, make_home: bool = True) -> Loaded:
    """Load settings for a command: problems go to stderr, a line each, and the process exits with 2."""
    try:
        settings = load_them()
        if make_home:
            settings.make_home()
    except SettingsError as error:
        sys.stderr.writelines(f"{line}\n" for line in error.lines)
        raise SystemExit(2) from None
    return settings
