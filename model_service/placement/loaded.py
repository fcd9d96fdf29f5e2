"""What the pool needs of a loaded model, so that it and the API can be read (and tested) without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tokenizers import Tokenizer

from model_service.engine.sequence import Piece, SamplingParams


class Stream(Protocol):
    """One sequence's answer. Leaving the `async with` block cancels it and frees its slot by the next step."""

    @property
    def error(self) -> Exception | None:
        """What ended it early, once it has; text that came before can still be taken."""

    @property
    def position(self) -> int | None:
        """Place in the queue, 1 is next; None once it runs."""

    @property
    def eta_s(self) -> float | None:
        """Seconds until it is expected to run; None once it runs, or when nobody knows."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def listen(self, news: Callable[[bool], None]) -> None:
        """Have `news(last)` called on the event loop whenever something came; `last` if nothing follows."""

    def take(self) -> Piece | None:
        """Return all there is since the last call, if anything; the last piece carries the finish reason."""


class Model(Protocol):
    """A model in memory."""

    async def close(self) -> None:
        """End every stream with EngineDead and stop. Closing twice is harmless."""


class Generator(Model, Protocol):
    """A model that continues texts; `engine.Engine` is one."""

    @property
    def context_len(self) -> int:
        """Tokens that fit, prompt and answer together."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""

    @property
    def alive(self) -> bool:
        """Whether it takes sequences; false once its steps have failed too often."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids. May be called from any thread."""

    @property
    def reused_tokens(self) -> int:
        """Tokens of prompts so far that did not run, since another sequence's keys and values served."""

    def submit(
        self, prompt_ids: list[int], params: SamplingParams, user: str = "", *, deadline_s: float | None = None
    ) -> Stream:
        """Queue a sequence; an empty prompt starts from end-of-text. Raises PromptTooLong, QueueFull, EngineDead.

        deadline_s: seconds from now after which the stream ends with DeadlinePassed.
        """


class Carrier(Generator, Protocol):
    """A generator whose sequences may each run with an adapter; `engine.Engine` is one."""

    async def load_adapter(self, name: str, folder: Path) -> int:
        """Read an adapter, so that `submit` takes its name; what runs goes on. Returns its bytes."""

    def drop_adapter(self, name: str) -> None:
        """Refuse new sequences with it; it is freed when the last running one has ended."""

    def submit(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        user: str = "",
        adapter: str = "",
        *,
        deadline_s: float | None = None,
    ) -> Stream:
        """Queue a sequence, with an adapter or without. Raises what a Generator raises, or ModelNotFound."""


class Labeller(Model, Protocol):
    """A model that classifies texts; `engine.Classifier` is one."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""

    @property
    def labels(self) -> list[str]:
        """Names in label-id order."""

    async def classify(self, texts: list[str]) -> list[list[float]]:
        """One row of probabilities per text, in label-id order."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with what there is to say about it."""

    model: Generator | Labeller
    folder: Path  # where its files lie
    device_map: dict[str, str]  # {"layers 0-5": "cuda:0"}
    size_bytes: int
    weights: str  # number format
