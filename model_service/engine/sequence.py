"""What runs in the engine: one prompt and the tokens after it. Pure Python: no torch here.

A request (wire) becomes one or more sequences (engine). A status only moves forward:

    WAITING ── slot free ──> RUNNING ── stop, length, cancelled, failed ──> FINISHED
"""

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from model_service.models.lora import Adapter  # torch is behind it

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn. Defaults are OpenAI's for completions; 0 turns top_k and min_p off."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    echo: bool = False

    @property
    def edits_logits(self) -> bool:
        """Whether anything but temperature and truncation changes the logits."""
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty or self.logit_bias)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (None for a prompt's first) and the likeliest others, best first."""

    token_id: int
    logprob: float | None
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text since the last piece. The last one carries the finish reason."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None

    def __add__(self, later: "Piece") -> "Piece":
        """Merge with the piece that follows."""
        return Piece(
            self.text + later.text,
            self.token_ids + later.token_ids,
            self.logprobs + later.logprobs,
            later.finish_reason,
        )


class Status(IntEnum):
    """Where a sequence is; it never goes back."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Sequence:
    """One prompt with its answer so far. It belongs to the engine's thread once submitted."""

    __slots__ = (
        *("adapter", "deadline", "id", "limit_s", "num_computed", "num_landed", "params"),
        *("prompt_len", "seed", "slot", "status", "token_ids", "user"),
    )

    def __init__(
        self,
        id: int,
        prompt_ids: list[int],
        params: SamplingParams,
        seed: int,
        user: str = "",
        adapter: "Adapter | None" = None,
    ) -> None:
        assert prompt_ids
        self.id = id
        self.params = params
        self.seed = seed
        self.user = user
        self.adapter = adapter  # kept alive by those who use it, also after it was dropped
        self.limit_s = self.deadline = math.inf
        self.token_ids = list(prompt_ids)  # prompt, then answer
        self.prompt_len = len(prompt_ids)
        self.num_computed = 0  # tokens whose keys and values are in the cache, or will be before what follows runs
        self.num_landed = 0  # of them, those whose results are known
        self.slot = -1
        self.status = Status.WAITING

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.token_ids) - self.prompt_len

    @property
    def num_missing(self) -> int:
        """Tokens that are known but not yet computed: what is left of the prompt, or the last token drawn.

        None while the step that gives the next one is in flight.
        """
        return len(self.token_ids) - self.num_computed

    @property
    def num_skippable(self) -> int:
        """Tokens of the prompt that need not run where their keys and values are known: not the last, which predicts.

        None if the prompt's own log-probabilities are wanted.
        """
        return 0 if self.params.echo and self.params.logprobs is not None else self.prompt_len - 1

    def limit(self, limit_s: float, now: float) -> None:
        """Let it end with an error after `limit_s` seconds from `now`, waiting or running."""
        self.limit_s, self.deadline = limit_s, now + limit_s

    def finish(self) -> None:
        """Move to FINISHED, from wherever it was."""
        self.status = Status.FINISHED
