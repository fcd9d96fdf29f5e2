"""Settings that both processes read: where state lives, which models, how the service is reached.

    punchline.toml  <  .env  <  environment (PUNCHLINE_<SECTION>__<NAME>)      the later source wins

The bot's settings (`bot.config`) add the bot's own sections to these. Unknown names are refused by name.
Built once, in `__main__`, by `load`; nothing here is read at import.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Weights = Literal["auto", "float16", "bfloat16", "float32", "int8"]


class Section(BaseModel):
    """A table of punchline.toml: frozen, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Section):
    """One `[[service.models]]` table."""

    name: Annotated[str, Field(description="What people choose it by.", min_length=1)]
    source: Annotated[str, Field(description="Hub id, or a folder with config.json and safetensors.")]
    task: Annotated[Literal["generate", "classify"], Field(description="What it does.")] = "generate"
    weights: Annotated[Weights, Field(description="Number format; auto: float16 on a GPU, measured on a CPU.")] = "auto"
    devices: Annotated[Literal["auto"] | list[str], Field(description='Where its layers go: "auto" or a list.')] = (
        "auto"
    )


class ServiceSettings(Section):
    """The `[service]` table."""

    socket: Annotated[Path | None, Field(description="Unix socket; default `<home>/model.sock`.")] = None
    host: Annotated[str | None, Field(description="Listen on TCP instead; needs port and api_key.")] = None
    port: Annotated[int | None, Field(description="TCP port.", ge=1, le=65535)] = None
    api_key: Annotated[SecretStr | None, Field(description="Bearer key, required over TCP.")] = None
    max_queue: Annotated[int, Field(description="Requests that may wait; more get 429.", ge=1)] = 256
    max_num_seqs: Annotated[int, Field(description="Sequences that run at once, per model.", ge=1)] = 16
    threads: Annotated[int | None, Field(description="CPU threads for torch; default: all cores.", ge=1)] = None
    models: Annotated[tuple[ModelSettings, ...], Field(description="Models held; none: the embedded ones.")] = ()


class TrainingSettings(Section):
    """The `[training]` table."""

    discord_permission: Annotated[
        str | None, Field(description="Discord's written permission to train on messages: reference and date.")
    ] = None
    auto_promote: Annotated[bool, Field(description="Use a tuned model at once when it passes the gate.")] = True
    threads: Annotated[int | None, Field(description="CPU threads of the child; default: half the cores.", ge=1)] = None
    nice: Annotated[int, Field(description="Niceness of the child, 0 to 19.", ge=0, le=19)] = 10
