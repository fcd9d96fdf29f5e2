"""A completion as server-sent events. One write carries all text since the last one.

    : loading gpt2-xl 43 %              while the model is not there, when it changes
    : queue position=3 eta_s=4.2        while every sequence of the request waits, when it changes
    data: {"id": "cmpl-…", "choices": [{"index": 0, "text": "…", …}]}
    data: [DONE]

An error in the middle is `data: {"error": {…}}` and the end. When the client goes away the sequences are cancelled.
"""

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model_service.api.answer import Answer
from model_service.api.chunks import ChunkWriter, event
from model_service.api.disconnect import ClientGone, while_connected
from model_service.api.failures import error_json
from model_service.api.merged import Merged
from model_service.engine.sequence import Piece
from model_service.errors import InternalError, ServiceError

log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 0.02  # between two writes of a stream; its first text and its end do not wait
PER_STREAM_S = 0.0005  # many streams are written less often, so that together they are not above 2,000 writes a second
LONGEST_INTERVAL_S = 0.1
SETTLE_S = 0.02  # a request that gets its slot within this never says that it waits
QUEUE_COMMENT_S = 0.5
LOADING_COMMENT_S = 0.5
KEEP_ALIVE_S = 10.0  # without anything to say, at least a comment


class Pace:
    """How often each of the open streams is written. Writing takes the time of a core that the model could use."""

    def __init__(self) -> None:
        self._num_open = 0

    @property
    def interval_s(self) -> float:
        """Least time between two writes of one stream."""
        return min(max(WRITE_INTERVAL_S, self._num_open * PER_STREAM_S), LONGEST_INTERVAL_S)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Count as an open stream."""
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1


class EventStream(Response):
    """The response that writes one answer as it comes. It owns the answer's sequences through `stack`."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, stack: AsyncExitStack, pace: Pace) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._answer, self._stack, self._pace = answer, stack, pace
        self._chunks = ChunkWriter(answer.completion([]), usage=self._include_usage)
        self._comment = b""
        self._silent_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write everything; returns when it is written or the client is gone."""
        async with self._stack:
            self._stack.enter_context(self._pace.writing())
            try:
                await while_connected(receive, self._write(send))
            except ClientGone:
                log.debug("request %s: the client left", self._answer.id)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._wait_for_model(send)
            end = await self._write_choices(send) + self._usage() + b"data: [DONE]\n\n"
        except ServiceError as error:
            end = event(error_json(error))
        except Exception:
            log.exception("request %s failed", self._answer.id)
            end = event(error_json(InternalError()))
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _wait_for_model(self, send: Send) -> None:
        """Say how far the load is, until the model is there and the request in its queue."""
        visit = self._answer.visit
        name, waited_s = " ".join(visit.model_id.split()), 0.0
        while not await visit.arrives(waited_s):
            comment = f": loading {name} {int(100 * visit.progress)} %\n\n".encode()
            self._silent_s += waited_s
            waited_s = LOADING_COMMENT_S
            if comment != self._comment or self._silent_s >= KEEP_ALIVE_S:
                self._comment, self._silent_s = comment, 0.0
                await send({"type": "http.response.body", "body": comment, "more_body": True})
        await self._answer.submit(self._stack)

    async def _write_choices(self, send: Send) -> bytes:
        """Write until the last pieces; return these, to be written with the end."""
        candidates = self._answer.candidates
        num_open, timeout_s = len(candidates), SETTLE_S
        async with Merged([candidate.stream for candidate in candidates], WRITE_INTERVAL_S) as merged:
            while True:
                merged.interval_s = self._pace.interval_s
                pieces = await merged.read(timeout_s)
                body = b"".join(self._chunk(index, piece) for index, piece in pieces.items())
                num_open -= sum(piece.finish_reason is not None for piece in pieces.values())
                if not num_open:
                    return body
                if not pieces:
                    body = self._comment_line(timeout_s)
                timeout_s = QUEUE_COMMENT_S
                if body:
                    self._silent_s = 0.0
                    await send({"type": "http.response.body", "body": body, "more_body": True})

    def _chunk(self, index: int, piece: Piece) -> bytes:
        answer, candidate = self._answer, self._answer.candidates[index]
        answer.take(candidate, piece)
        if not piece.text and not piece.logprobs and not piece.finish_reason:
            return b""  # half a character, or what may become a stop text
        return self._chunks.write(index, piece.text, answer.logprobs(candidate, piece), piece.finish_reason)

    def _usage(self) -> bytes:
        if not self._include_usage:
            return b""
        return event(self._answer.completion([], self._answer.usage()).model_dump_json())

    @property
    def _include_usage(self) -> bool:
        options = self._answer.request.stream_options
        return options is not None and options.include_usage

    def _comment_line(self, waited_s: float) -> bytes:
        """Say where the request stands in the queue if that has changed, or that it lives, now and then."""
        places = [(c.stream.position, c.stream.eta_s) for c in self._answer.candidates]
        comment = b""
        if all(position is not None for position, _ in places):
            position, eta_s = min(places, key=lambda place: place[0] or 0)
            eta = "" if eta_s is None else f" eta_s={eta_s:.1f}"
            comment = f": queue position={position}{eta}\n\n".encode()
        self._silent_s += waited_s
        if comment == self._comment and self._silent_s < KEEP_ALIVE_S:
            return b""
        self._comment = comment
        return comment or b": working\n\n"
