"""What the pool needs of a loaded model, so that it and the API can be read (and tested) without torch."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tokenizers import Tokenizer

from model_service.engine.sequence import Piece, SamplingParams


class Stream(Protocol):
    """One sequence's answer. Leaving the `async with` block cancels it and frees its slot by the next step."""

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
    def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces, each with all text since the last read; the last one carries the finish reason."""


class LoadedModel(Protocol):
    """A model in memory."""

    @property
    def folder(self) -> Path:
        """Where its files lie."""

    @property
    def device_map(self) -> dict[str, str]:
        """Which layers are on which device, `{"layers 0-5": "cuda:0"}`."""

    @property
    def size_bytes(self) -> int:
        """What its weights take."""

    @property
    def weights(self) -> str:
        """Their number format."""

    async def close(self) -> None:
        """End every stream with EngineDead and stop. Closing twice is harmless."""


class Generator(LoadedModel, Protocol):
    """A model that continues texts; `engine.Engine` is one."""

    @property
    def context_len(self) -> int:
        """Tokens that fit, prompt and answer together."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""

    @property
    def eos_token_id(self) -> int:
        """The token that ends a text, and that an empty prompt starts from."""

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

    def submit(self, prompt_ids: list[int], params: SamplingParams, user: str = "") -> Stream:
        """Queue a sequence. Raises PromptTooLong, QueueFull, EngineDead."""


class Labeller(LoadedModel, Protocol):
    """A model that classifies texts; `engine.Classifier` is one."""

    @property
    def labels(self) -> list[str]:
        """Names in label-id order."""

    async def classify(self, texts: list[str]) -> list[list[float]]:
        """One row of probabilities per text, in label-id order."""
