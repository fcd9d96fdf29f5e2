"""The messages on the wire: OpenAI's completions, models and errors, and `/v1/classify`. No torch here.

Frozen pydantic models; a field nobody knows is refused by name, a number out of range with the limit.
Where a request says `null`, the default holds, as OpenAI has it.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from model_service.api.checks import check_bias, check_input, check_prompt, check_stop, check_text, wrong
from model_service.engine.sequence import FinishReason, SamplingParams

MAX_SEQUENCES = 128  # answers one request may ask for: prompts x best_of
MAX_TOP_LOGPROBS = 20
MAX_TOKENS = 1_000_000  # far above any context, which the engine checks; only keeps the numbers sane
SEED_LIMIT = 2**63
LEAST_TOP_P = 1e-9  # the likeliest token is always kept: top_p 0 is greedy, as at OpenAI

Prompt = str | list[str] | list[int] | list[list[int]]


class Wire(BaseModel):
    """What every message shares: frozen, strict, unknown names are errors, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class WireRequest(Wire):
    """A message someone sends us: `null` means the default."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        return {name: value for name, value in fields.items() if value is not None or name not in cls.model_fields}


Name = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(WireRequest):
    """What else a stream carries."""

    include_usage: bool = False


class CompletionRequest(WireRequest):
    """`POST /v1/completions`."""

    model: Name
    prompt: Annotated[Prompt, BeforeValidator(check_prompt)]
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 16
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS, description="0 or -1: off.")] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    n: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] = 1
    best_of: Annotated[int | None, Field(ge=1, le=MAX_SEQUENCES)] = None
    stop: Annotated[list[str], BeforeValidator(check_stop)] = []
    seed: Annotated[int | None, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_TOP_LOGPROBS)] = None
    echo: bool = False
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[int, float], BeforeValidator(check_bias)] = {}
    user: Annotated[str, BeforeValidator(check_text)] = Field("", max_length=512)

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise wrong(f"best_of ({self.best_of}) must be at least n ({self.n})", "best_of")
        if self.stream and self.num_candidates > self.n:
            raise wrong("best_of above n cannot be streamed: the best is known only at the end", "best_of")
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options needs stream: true", "stream_options")
        if len(self.prompts) * self.num_candidates > MAX_SEQUENCES:
            raise wrong(
                f"{len(self.prompts)} prompts with {self.num_candidates} answers each are too many for one request:"
                f" at most {MAX_SEQUENCES} answers",
                "prompt",
            )
        return self

    @property
    def num_candidates(self) -> int:
        """Answers generated per prompt; the best `n` are returned."""
        return self.n if self.best_of is None else self.best_of

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list, however they were written."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # all of them are, the validator saw to it
        return self.prompt

    def sampling(self, candidate: int) -> SamplingParams:
        """Give the engine's parameters for one of the candidates of a prompt."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=max(self.top_p, LEAST_TOP_P),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple(self.logit_bias.items()),
            stop=tuple(self.stop),
            seed=None if self.seed is None else candidate_seed(self.seed, candidate),
            logprobs=0 if self.logprobs is None and self.num_candidates > self.n else self.logprobs,
            echo=self.echo,
        )


def candidate_seed(seed: int, candidate: int) -> int:
    """Derive a candidate's seed: the first keeps the request's own (0 to 2**63 - 1), others are hashed apart."""
    if candidate == 0:
        return seed % SEED_LIMIT
    digest = blake2b(f"{seed}/{candidate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SEED_LIMIT


class Logprobs(Wire):
    """Log-probabilities of a choice's tokens; `text_offset` counts characters from the start of its `text`."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(Wire):
    """One answer, or in a stream what came since the last chunk."""

    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Usage(Wire):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Wire):
    """An answer to `POST /v1/completions`; in a stream, one chunk of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ClassifyRequest(WireRequest):
    """`POST /v1/classify`."""

    model: Name
    input: Annotated[list[str], BeforeValidator(check_input)]


class Classified(Wire):
    """One text's label, with the probabilities in label-id order."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classification(Wire):
    """An answer to `POST /v1/classify`."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classified]
    usage: Usage


class ModelCard(Wire):
    """A model as `GET /v1/models` shows it; `error` says why a failed one failed.

    device_bytes: what is planned for it on each device. why: one sentence about where it is, or is not.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    task: Literal["generate", "classify"]
    device_map: dict[str, str]
    device_bytes: dict[str, int]
    bytes: int
    weights: str
    state: Literal["unloaded", "loading", "ready", "failed"]
    progress: float | None = None
    pinned: bool
    why: str
    error: str | None = None


class DeviceCard(Wire):
    """A device's memory, as far as models may have it, and what they have of it."""

    name: str
    total_bytes: int
    used_bytes: int


class ModelList(Wire):
    """An answer to `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    devices: list[DeviceCard]


class ModelDeleted(Wire):
    """An answer to `DELETE /v1/models/{id}`."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
