"""Streams: the same text as in one piece, honest about waiting, and gone when the client is."""

import asyncio
import json
from typing import Any

import aiohttp

from tests.service.conftest import MAX_NUM_SEQS, MAX_QUEUE
from tests.service.talk import NEVER_END, complete, events, refused, stream, text_of, wait_for_metric
from tests.support.service_process import ServiceProcess

RUNNING = 'punchline_running_sequences{model="long"}'
WAITING = 'punchline_queue_length{model="long"}'
LONG: dict[str, Any] = {"model": "long", "prompt": "a", "max_tokens": 30_000, **NEVER_END}


async def test_a_stream_joins_to_the_text_in_one_piece(client: aiohttp.ClientSession) -> None:
    fields = {"max_tokens": 60, "seed": 2, "n": 3, **NEVER_END}
    whole = await complete(client, **fields)
    chunks = await stream(client, **fields)
    for choice in whole["choices"]:
        assert text_of(chunks, choice["index"]) == choice["text"]
    last = {c["index"]: c["finish_reason"] for chunk in chunks for c in chunk["choices"]}
    assert last == {0: "length", 1: "length", 2: "length"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_when_asked_for(client: aiohttp.ClientSession) -> None:
    chunks = await stream(client, max_tokens=5, stream_options={"include_usage": True}, **NEVER_END)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}


async def test_streamed_logprobs_are_those_of_the_text_in_one_piece(client: aiohttp.ClientSession) -> None:
    fields = {"max_tokens": 9, "seed": 2, "logprobs": 1, "echo": True, **NEVER_END}
    whole = (await complete(client, **fields))["choices"][0]["logprobs"]
    parts = [choice["logprobs"] for chunk in await stream(client, **fields) for choice in chunk["choices"]]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert [offset for part in parts for offset in part["text_offset"]] == whole["text_offset"]


async def test_a_stop_text_never_shows_in_a_stream(client: aiohttp.ClientSession) -> None:
    fields = {"max_tokens": 60, "seed": 3, **NEVER_END}
    whole = text_of(await stream(client, **fields))
    middle = next(i for i in range(8, 50) if "\ufffd" not in whole[i : i + 3] and whole.index(whole[i : i + 3]) == i)
    chunks = await stream(client, stop=whole[middle : middle + 3], **fields)
    assert text_of(chunks) == whole[:middle]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_leaving_a_stream_frees_its_slot(client: aiohttp.ClientSession, service: ServiceProcess) -> None:
    async with service.client() as leaver:
        async with leaver.post("/v1/completions", json={**LONG, "stream": True, "n": 3}) as response:
            async for line in events(response):
                if not line.startswith(":"):
                    break
            await wait_for_metric(client, RUNNING, 3)
            response.close()  # the socket closes; nobody says goodbye
        await wait_for_metric(client, RUNNING, 0)


async def test_leaving_before_the_answer_frees_the_slot_too(
    client: aiohttp.ClientSession, service: ServiceProcess
) -> None:
    async with service.client() as leaver:
        asking = asyncio.create_task(leaver.post("/v1/completions", json=LONG), name="asking")
        await wait_for_metric(client, RUNNING, 1)
        asking.cancel()
        await asyncio.wait([asking])
        await wait_for_metric(client, RUNNING, 0)


async def test_leaving_while_waiting_leaves_the_queue(client: aiohttp.ClientSession, service: ServiceProcess) -> None:
    async with service.client() as busy, busy.post("/v1/completions", json={**LONG, "n": MAX_NUM_SEQS, "stream": True}):
        await wait_for_metric(client, RUNNING, MAX_NUM_SEQS)
        async with service.client() as leaver:
            asking = asyncio.create_task(leaver.post("/v1/completions", json=LONG), name="asking")
            await wait_for_metric(client, WAITING, 1)
            asking.cancel()
            await asyncio.wait([asking])
            await wait_for_metric(client, WAITING, 0)
    await wait_for_metric(client, RUNNING, 0)


async def test_a_full_queue_answers_429_and_those_who_wait_see_their_place(
    client: aiohttp.ClientSession, service: ServiceProcess
) -> None:
    async with service.client() as busy, busy.post("/v1/completions", json={**LONG, "n": MAX_NUM_SEQS, "stream": True}):
        await wait_for_metric(client, RUNNING, MAX_NUM_SEQS)
        async with service.client() as patient:
            waiting = {**LONG, "n": MAX_QUEUE, "stream": True, "max_tokens": 5}
            async with patient.post("/v1/completions", json=waiting) as response:
                comment = await anext(events(response))
                assert comment.startswith(": queue position=1 eta_s=")
                async with client.post("/v1/completions", json=LONG) as over:
                    assert over.status == 429
                    assert int(over.headers["Retry-After"]) >= 1
                    error = (await over.json())["error"]
                    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
                busy_models = await complete(client, max_tokens=1)  # another model has its own queue
                assert busy_models["choices"]
                await busy.close()
                lines = [line async for line in events(response)]
                assert lines[-1] == "[DONE]"
    await wait_for_metric(client, RUNNING, 0)


async def test_more_answers_than_the_queue_can_ever_hold_are_refused_for_good(client: aiohttp.ClientSession) -> None:
    status, error = await refused(client, model="tiny", prompt="a", n=MAX_NUM_SEQS + MAX_QUEUE + 1)
    assert status == 400
    assert error["message"] == "This asks for 11 answers at once; the queue holds 10."


async def test_a_slow_reader_gets_much_text_in_one_chunk(service: ServiceProcess) -> None:
    """What cannot be written is merged: 900 tokens do not become 900 chunks that wait in memory."""
    body = json.dumps({**LONG, "stream": True, "max_tokens": 900, "logprobs": 20})  # about 1 KB a token
    reader, writer = await asyncio.open_unix_connection(str(service.socket_path), limit=2**12)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: service\r\nConnection: close\r\n")
    writer.write(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    await reader.readuntil(b"data: ")
    async with service.client() as client:
        await wait_for_metric(client, RUNNING, 0)  # it ends although nobody reads
    async with asyncio.timeout(20):
        rest = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert rest.count(b"data: {") < 800
