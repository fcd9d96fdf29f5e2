"""`POST /v1/completions`: one request becomes prompts x candidates sequences, their pieces one answer or one stream.

    request ─> wait for the model ─> encode ─> submit all ─┬─> stream: true ─> EventStream (event_stream.py)
                                                           └─> read all ─> best n of each prompt ─> one JSON answer
The client going away ends its sequences in the next step, in both cases.
"""

from contextlib import AsyncExitStack

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_service.api.answer import Answer, Candidate
from model_service.api.disconnect import CLIENT_CLOSED_REQUEST, ClientGone, while_connected
from model_service.api.event_stream import EventStream, Pace
from model_service.api.merged import Merged
from model_service.api.metrics import Metrics
from model_service.api.schemas import Choice, Completion, CompletionRequest
from model_service.errors import RequestRefused
from model_service.placement.pool import Pool

COLLECT_INTERVAL_S = 0.5  # an answer that is not streamed is needed at its end; no step wakes its reader


def router(pool: Pool, metrics: Metrics, *, max_sequences: int, limit_s: float) -> APIRouter:
    """Make the route. max_sequences: what an engine runs and queues at most. limit_s: what an answer may take."""
    routes, pace = APIRouter(), Pace()

    @routes.post("/v1/completions", response_model=None)
    async def create_completion(body: CompletionRequest, request: Request) -> Completion | Response:
        """Continue texts."""
        wanted = len(body.prompts) * body.num_candidates
        if wanted > max_sequences:
            raise RequestRefused(
                f"This asks for {wanted} answers at once; the queue holds {max_sequences}.", param="prompt"
            )
        async with AsyncExitStack() as stack:
            visit = stack.enter_context(pool.generating(body.model))
            answer = Answer(body, visit, metrics, limit_s)
            if visit.over:  # the model is there: what it refuses is a status of its own, also of a stream
                await answer.submit(stack)
            if body.stream:
                return EventStream(answer, stack.pop_all(), pace)
            try:
                return await while_connected(request.receive, collect(answer, stack))
            except ClientGone:
                return Response(status_code=CLIENT_CLOSED_REQUEST)

    return routes


async def collect(answer: Answer, stack: AsyncExitStack) -> Completion:
    """Read every sequence to its end; the best `n` of each prompt are the answer."""
    await answer.submit(stack)
    candidates = answer.candidates
    async with Merged([candidate.stream for candidate in candidates], COLLECT_INTERVAL_S) as merged:
        while any(candidate.piece.finish_reason is None for candidate in candidates):
            for index, piece in (await merged.read(COLLECT_INTERVAL_S)).items():
                answer.take(candidates[index], piece)
                candidates[index].piece += piece
    choices: list[Choice] = []
    size = answer.request.num_candidates
    for start in range(0, len(candidates), size):
        ranked = candidates[start : start + size]
        if size > answer.request.n:
            ranked = sorted(ranked, key=mean_logprob, reverse=True)[: answer.request.n]
        for candidate in ranked:
            choices.append(answer.choice(candidate, len(choices)))
    return answer.completion(choices, answer.usage())


def mean_logprob(candidate: Candidate) -> float:
    """Return the mean log-probability of the answer's tokens, its end included, an echoed prompt not.

    An empty answer is worst: the model often finds nothing likelier than to say nothing.
    """
    entries = candidate.piece.logprobs[candidate.num_echoed :] if candidate.num_tokens else ()
    known = [entry.logprob for entry in entries if entry.logprob is not None]
    return sum(known) / len(known) if known else float("-inf")
