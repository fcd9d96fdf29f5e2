"""A completion request while it is answered: its sequences, its id, what it has used so far."""

import asyncio
import logging
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from model_service.api.logprobs import LogprobWriter, names_of
from model_service.api.metrics import Metrics
from model_service.api.schemas import Choice, Completion, CompletionRequest, Logprobs, Usage
from model_service.engine.sequence import Piece
from model_service.errors import RequestRefused
from model_service.placement.loaded import Generator, Stream
from model_service.placement.waiting import Visit

log = logging.getLogger(__name__)

LONG_TEXT_CHARS = 4096  # longer prompts are tokenized on a thread


@dataclass(slots=True)
class Candidate:
    """One sequence of a request. `index` counts over all of them, prompt by prompt."""

    index: int
    stream: Stream
    echo_len: int  # token ids of the prompt that come back before the answer
    num_echoed: int = 0  # of them, so far
    num_tokens: int = 0  # of the answer
    piece: Piece = field(default_factory=Piece)  # all of it, when it is not streamed


class Answer:
    """A request while it is answered: its sequences, its id, and what it has used so far."""

    def __init__(self, request: CompletionRequest, visit: Visit[Generator], metrics: Metrics, limit_s: float) -> None:
        self.request = request
        self.id = f"cmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.candidates: list[Candidate] = []
        self.prompt_tokens = 0
        self.visit = visit
        self._metrics, self._limit_s = metrics, limit_s
        self._engine: Generator | None = None  # until it is submitted
        self._began = time.monotonic()
        self._first_s: float | None = None
        self._finish_reasons: list[str] = []
        self._writers: dict[int, LogprobWriter] = {}

    async def submit(self, stack: AsyncExitStack) -> None:
        """Queue every sequence, or none, as soon as the model is there: `stack` cancels them. Does so once.

        Raises what the visit raises, PromptTooLong, QueueFull, EngineDead.
        """
        if self._engine is not None:
            return
        engine, request = await self.visit.model(), self.request
        prompts = await encode_prompts(request, engine)
        self._engine = engine
        for prompt_ids in prompts:
            prompt_len = max(1, len(prompt_ids))  # an empty one starts from end-of-text
            self.prompt_tokens += prompt_len
            for number in range(request.num_candidates):
                params = request.sampling(number)
                stream = engine.submit(prompt_ids, params, request.user, deadline_s=self._limit_s)
                await stack.enter_async_context(stream)
                self.candidates.append(Candidate(len(self.candidates), stream, prompt_len if request.echo else 0))
        stack.callback(self._finished)

    def take(self, candidate: Candidate, piece: Piece) -> None:
        """Count a piece."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._began
            self._metrics.first_token_s.labels(self.request.model).observe(self._first_s)
        echoed = min(len(piece.token_ids), candidate.echo_len - candidate.num_echoed)
        candidate.num_echoed += echoed
        candidate.num_tokens += len(piece.token_ids) - echoed
        if piece.finish_reason:
            self._finish_reasons.append(piece.finish_reason)

    def logprobs(self, candidate: Candidate, piece: Piece) -> Logprobs | None:
        """Return a piece's log-probabilities as they go over the wire, if they were asked for."""
        if self.request.logprobs is None:
            return None
        writer = self._writers.get(candidate.index)
        if writer is None:
            assert self._engine
            writer = LogprobWriter(names_of(self._engine.tokenizer), self.request.logprobs)
            self._writers[candidate.index] = writer
        return writer.write(piece.logprobs)

    def choice(self, candidate: Candidate, index: int) -> Choice:
        """Return all of a candidate's answer as it goes over the wire."""
        piece = candidate.piece
        logprobs = self.logprobs(candidate, piece)
        return Choice(text=piece.text, index=index, logprobs=logprobs, finish_reason=piece.finish_reason)

    def completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        """Wrap choices in the answer, or one chunk of it."""
        return Completion(id=self.id, created=self.created, model=self.request.model, choices=choices, usage=usage)

    def usage(self) -> Usage:
        """Count the tokens of all sequences, those that were not chosen too."""
        made = sum(candidate.num_tokens for candidate in self.candidates)
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=made, total_tokens=self.prompt_tokens + made)

    def _finished(self) -> None:
        usage, model = self.usage(), self.request.model
        self._metrics.tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._metrics.tokens.labels(model, "completion").inc(usage.completion_tokens)
        reasons = "+".join(sorted(set(self._finish_reasons))) or "nothing"
        if len(self._finish_reasons) < len(self.candidates):
            reasons = "cut off"
        took_s = time.monotonic() - self._began
        log.info("request %s finished: %s, %d tokens, %.2f s", self.id, reasons, usage.completion_tokens, took_s)


async def encode_prompts(request: CompletionRequest, engine: Generator) -> list[list[int]]:
    """Return each prompt's token ids. Raises RequestRefused for ids the model does not have."""
    encoded: list[list[int]] = []
    for prompt in request.prompts:
        if isinstance(prompt, list):
            check_ids(prompt, engine, "prompt")
            encoded.append(prompt)
        elif len(prompt) > LONG_TEXT_CHARS:
            encoded.append(await asyncio.to_thread(engine.encode, prompt))
        else:
            encoded.append(engine.encode(prompt))
    check_ids(list(request.logit_bias), engine, "logit_bias")
    return encoded


def check_ids(token_ids: list[int], engine: Generator, param: str) -> None:
    """Raise RequestRefused if one of them is not a token of the model."""
    if any(not 0 <= token_id < engine.vocab_size for token_id in token_ids):
        raise RequestRefused(f"{param} holds a token id outside 0 to {engine.vocab_size - 1}.", param=param)
