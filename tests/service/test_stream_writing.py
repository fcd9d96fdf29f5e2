"""What a stream writes, and when: the schema's own JSON, the first text at once, then at most one write an interval."""

import asyncio
import json
from contextlib import ExitStack

import pytest

from model_service.api.chunks import ChunkWriter
from model_service.api.event_stream import Pace
from model_service.api.merged import Merged
from model_service.api.schemas import Choice, Completion, Logprobs
from model_service.engine.sequence import Piece
from model_service.engine.stream import Stream
from model_service.errors import EngineDead

SOON_S, NEVER_S = 0.05, 30.0
TEXTS = ["", "ha", 'say "hi"\\', "\n\r\t\x00\x1f\x7f", "\u2028 é 😀 \ufffd", '"choices":[]', "</script>"]
LOGPROBS = Logprobs(
    tokens=["\n", "é"], token_logprobs=[None, -0.1], top_logprobs=[None, {'"': -1e-9}], text_offset=[0, 1]
)


def make_stream() -> Stream:
    return Stream(0, lambda sequence_id: None, lambda sequence_id: None)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("logprobs", [None, LOGPROBS])
@pytest.mark.parametrize("model", ["tiny", 'ft:"choices":[]\\"'])
def test_a_chunk_says_what_the_schema_says(usage: bool, logprobs: Logprobs | None, model: str) -> None:
    empty = Completion(id="cmpl-1", created=7, model=model, choices=[])
    writer = ChunkWriter(empty, usage=usage)
    for text in TEXTS:
        for reason in (None, "stop", "length"):
            choice = Choice(text=text, index=3, logprobs=logprobs, finish_reason=reason)
            whole = empty.model_copy(update={"choices": [choice]})
            schema = whole.model_dump_json(exclude=None if usage else {"usage"})
            written = writer.write(3, text, logprobs, reason)
            assert json.loads(written.removeprefix(b"data: ")) == json.loads(schema)
            assert written.endswith(b"\n\n")
            assert written.count(b"\n") == 2, "a line break inside an event would end it"


async def test_the_first_text_and_the_end_do_not_wait_for_the_interval() -> None:
    stream = make_stream()
    async with Merged([stream], interval_s=NEVER_S) as merged, asyncio.timeout(5):
        stream.put(Piece("a"))
        assert await merged.read(NEVER_S) == {0: Piece("a")}
        reading = asyncio.create_task(merged.read(NEVER_S), name="reading")
        stream.put(Piece("b"))
        await asyncio.sleep(SOON_S)
        assert not reading.done(), "it is too early for more"
        stream.put(Piece("c", finish_reason="stop"))
        assert await reading == {0: Piece("bc", finish_reason="stop")}


async def test_what_comes_within_the_interval_is_read_in_one_piece_when_it_is_over() -> None:
    stream, interval_s = make_stream(), 0.1
    loop = asyncio.get_running_loop()
    async with Merged([stream], interval_s) as merged, asyncio.timeout(5):
        stream.put(Piece("a"))
        await merged.read(NEVER_S)
        first = loop.time()
        reading = asyncio.create_task(merged.read(NEVER_S), name="reading")
        for text in "bcd":
            await asyncio.sleep(0)
            stream.put(Piece(text))
        assert await reading == {0: Piece("bcd")}
        assert loop.time() - first >= interval_s * 0.99
        await asyncio.sleep(interval_s)
        stream.put(Piece("e"))  # long after the last read: at once
        assert await merged.read(0.001) == {0: Piece("e")}


async def test_a_read_with_nothing_to_say_ends_with_its_time() -> None:
    async with Merged([make_stream()], interval_s=0.01) as merged, asyncio.timeout(5):
        assert await merged.read(0.01) == {}


async def test_an_error_is_raised_after_the_text_that_came_before_it() -> None:
    good, bad = make_stream(), make_stream()
    async with Merged([good, bad], interval_s=0.01) as merged, asyncio.timeout(5):
        bad.put(Piece("so"))
        bad.put(EngineDead())
        good.put(Piece("far"))
        assert await merged.read(NEVER_S) == {0: Piece("far"), 1: Piece("so")}
        with pytest.raises(EngineDead):
            await merged.read(NEVER_S)


async def test_a_read_that_was_given_up_loses_nothing() -> None:
    stream = make_stream()
    async with Merged([stream], interval_s=0.01) as merged, asyncio.timeout(5):
        reading = asyncio.create_task(merged.read(NEVER_S), name="reading")
        await asyncio.sleep(0)
        stream.put(Piece("a"))
        reading.cancel()
        await asyncio.wait([reading])
        assert await merged.read(NEVER_S) == {0: Piece("a")}


async def test_pieces_that_came_before_anybody_listened_are_read() -> None:
    stream = make_stream()
    stream.put(Piece("a", (1,)))
    stream.put(Piece("b", (2,), finish_reason="length"))
    async with Merged([stream], interval_s=NEVER_S) as merged, asyncio.timeout(5):
        assert await merged.read(NEVER_S) == {0: Piece("ab", (1, 2), finish_reason="length")}


def test_many_streams_are_written_less_often_each_but_never_rarely() -> None:
    pace, alone_s = Pace(), Pace().interval_s
    with ExitStack() as open_streams:
        for _ in range(64):
            open_streams.enter_context(pace.writing())
        assert alone_s < pace.interval_s < 0.05
        for _ in range(1000):
            open_streams.enter_context(pace.writing())
        assert pace.interval_s == 0.1
    assert pace.interval_s == alone_s == 0.02
