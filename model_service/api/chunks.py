"""Writes the chunks of a stream: what the schema would write, without building its models for every token.

A stream of 64 tokens has up to 64 chunks that differ in their text alone, so the rest is written once per request.
"""

import json

from model_service.api.schemas import Completion, Logprobs
from model_service.engine.sequence import FinishReason

_EMPTY = '"choices":[]'  # only the field itself: inside a JSON text the quotes would be escaped


class ChunkWriter:
    """One request's chunks."""

    def __init__(self, empty: Completion, *, usage: bool) -> None:
        """empty: the answer without choices. usage: whether its chunks have a `usage`, null, because one follows."""
        frame = empty.model_dump_json(exclude=None if usage else {"usage"})
        head, _, tail = frame.partition(_EMPTY)
        self._head = f'data: {head}"choices":[{{"text":'
        self._tail = f"}}]{tail}\n\n"

    def write(self, index: int, text: str, logprobs: Logprobs | None, finish_reason: FinishReason | None) -> bytes:
        """Return one event with one choice."""
        reason = f'"{finish_reason}"' if finish_reason else "null"
        scores = logprobs.model_dump_json() if logprobs else "null"
        fields = f'{json.dumps(text, ensure_ascii=False)},"index":{index},"logprobs":{scores},"finish_reason":{reason}'
        return f"{self._head}{fields}{self._tail}".encode()


def event(json_text: str | bytes) -> bytes:
    """Write one event."""
    payload = json_text.encode() if isinstance(json_text, str) else json_text
    return b"data: " + payload + b"\n\n"
