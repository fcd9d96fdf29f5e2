"""Whatever is sent, the answer is a sentence in OpenAI's shape and never a 500."""

import asyncio
import io
import json
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.service.talk import complete, refused
from tests.support.service_process import ServiceProcess

OK: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 1}

WRONG_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"frobnicate": 1}, "frobnicate", "There is no parameter 'frobnicate' here."),
    ({"frobnicate": None}, "frobnicate", "There is no parameter 'frobnicate' here."),
    ({"prompt": None}, "prompt", "prompt is required."),
    ({"model": None}, "model", "model is required."),
    ({"model": 3}, "model", "model must be a text."),
    ({"model": ""}, "model", "model needs at least 1 characters."),
    ({"max_tokens": -1}, "max_tokens", "max_tokens must be at least 0."),
    ({"max_tokens": 10**400}, "max_tokens", "max_tokens must be at most 1000000."),
    ({"max_tokens": 1.5}, "max_tokens", "max_tokens must be a whole number."),
    ({"max_tokens": "16"}, "max_tokens", "max_tokens must be a whole number."),
    ({"max_tokens": True}, "max_tokens", "max_tokens must be a whole number."),
    ({"temperature": -0.1}, "temperature", "temperature must be at least 0."),
    ({"temperature": 2.1}, "temperature", "temperature must be at most 2."),
    ({"temperature": float("nan")}, "temperature", "temperature must be a finite number."),
    ({"temperature": float("inf")}, "temperature", "temperature must be a finite number."),
    ({"temperature": 10**400}, "temperature", "temperature must be a number."),
    ({"temperature": "hot"}, "temperature", "temperature must be a number."),
    ({"top_p": 1.01}, "top_p", "top_p must be at most 1."),
    ({"top_k": -2}, "top_k", "top_k must be at least -1."),
    ({"min_p": 2}, "min_p", "min_p must be at most 1."),
    ({"n": 0}, "n", "n must be at least 1."),
    ({"n": 10**9}, "n", "n must be at most 128."),
    ({"n": 3, "best_of": 2}, "best_of", "Best_of (2) must be at least n (3)."),
    ({"best_of": 2, "stream": True}, "best_of", "Best_of above n cannot be streamed: the best is known only at the"),
    ({"stream": "yes"}, "stream", "stream must be true or false."),
    ({"stream_options": {"include_usage": True}}, "stream_options", "Stream_options needs stream: true."),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "There is no parameter 'stream_options.x'"),
    ({"logprobs": 21}, "logprobs", "logprobs must be at most 20."),
    ({"logprobs": True}, "logprobs", "logprobs must be a whole number."),
    ({"echo": 1}, "echo", "echo must be true or false."),
    ({"seed": 2**63}, "seed", "seed must be below 9223372036854775808."),
    ({"repetition_penalty": 0}, "repetition_penalty", "repetition_penalty must be above 0."),
    ({"presence_penalty": 3}, "presence_penalty", "presence_penalty must be at most 2."),
    ({"frequency_penalty": -3}, "frequency_penalty", "frequency_penalty must be at least -2."),
    ({"stop": ""}, "stop", "Each stop text needs 1 to 200 characters."),
    ({"stop": ["a"] * 17}, "stop", "Stop may hold at most 16 texts, not 17."),
    ({"stop": 3}, "stop", "Stop must be a text or a list of texts."),
    ({"stop": ["\ud800"]}, "stop", "stop: the text holds half of a surrogate pair, which is not valid Unicode."),
    ({"logit_bias": {"x": 1}}, "logit_bias", "The keys of logit_bias must be token ids"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "The values of logit_bias must be numbers from -100 to 100."),
    ({"logit_bias": {"1": float("nan")}}, "logit_bias", "The values of logit_bias must be numbers from -100 to 100."),
    ({"logit_bias": [1]}, "logit_bias", "Logit_bias must be an object of at most 1024 token ids"),
    ({"user": "\udfff"}, "user", "user: the text holds half of a surrogate pair, which is not valid Unicode."),
    ({"user": 5}, "user", "user: it must be a text."),
    ({"user": "u" * 513}, "user", "user may have at most 512 characters."),
    ({"prompt": "a\ud800b"}, "prompt", "prompt: the text holds half of a surrogate pair, which is not valid Unicode."),
    ({"prompt": ["\udc00"]}, "prompt", "prompt: the text holds half of a surrogate pair, which is not valid Unicode."),
    ({"prompt": []}, "prompt", "Prompt is an empty list: it needs at least one text or token id."),
    ({"prompt": {}}, "prompt", "Prompt must be a text, a list of texts, a list of token ids, or a list of lists"),
    ({"prompt": ["a", 1]}, "prompt", "Prompt must be a text, a list of texts, a list of token ids, or a list of lists"),
    (
        {"prompt": [1, True]},
        "prompt",
        "Prompt must be a text, a list of texts, a list of token ids, or a list of lists",
    ),
    ({"prompt": [1.0]}, "prompt", "Prompt must be a text, a list of texts, a list of token ids, or a list of lists"),
    ({"prompt": ["a"] * 129}, "prompt", "129 prompts with 1 answers each are too many for one request"),
    ({"\ud800": 1}, "", "The body must be a JSON object, sent with Content-Type: application/json."),
]

BODIES: list[tuple[bytes, str]] = [
    (b"", "The body must be a JSON object, sent with Content-Type: application/json."),
    (b"{", "The body is not valid JSON at character 1"),
    (b"[]", "The body must be a JSON object, sent with Content-Type: application/json."),
    (b"null", "The body must be a JSON object, sent with Content-Type: application/json."),
    (b'"text"', "The body must be a JSON object, sent with Content-Type: application/json."),
    (b"17", "The body must be a JSON object, sent with Content-Type: application/json."),
    (b"\xff\xfe\x00", "The body could not be read."),
    (b"[" * 100_000, "The body could not be read."),
    (b'{"a":' * 50_000, "The body could not be read."),
    (b'{"model": "tiny", "prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", "The body could not be read."),
    (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', "temperature must be a finite number."),
    (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "temperature must be a finite number."),
    (b'{"model": "tiny", "prompt": ' + b"[" * 500 + b"]" * 500 + b"}", "Prompt must be a text"),
]


@pytest.mark.parametrize(("change", "param", "message"), WRONG_FIELDS, ids=range(len(WRONG_FIELDS)))
async def test_a_wrong_field_is_named_with_its_limit(
    client: aiohttp.ClientSession, change: dict[str, Any], param: str, message: str
) -> None:
    status, error = await refused(client, **{**OK, **change})
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith(message)
    assert (error["param"] or "") == param
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("body", "message"), BODIES, ids=range(len(BODIES)))
async def test_a_broken_body_is_refused(client: aiohttp.ClientSession, body: bytes, message: str) -> None:
    for path in ("/v1/completions", "/v1/classify"):
        async with client.post(path, data=body, headers={"Content-Type": "application/json"}) as response:
            error = (await response.json())["error"]
            assert response.status == 400, error
            if path == "/v1/completions":
                assert error["message"].startswith(message)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", "multipart/x"])
async def test_another_content_type_is_refused(client: aiohttp.ClientSession, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    async with client.post("/v1/completions", data=json.dumps(OK), headers=headers) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["message"] == "The body must be a JSON object, sent with Content-Type: application/json."


async def test_what_was_sent_is_never_repeated(client: aiohttp.ClientSession) -> None:
    for change in ({"temperature": "SECRET"}, {"prompt": {"x": "SECRET"}}, {"stop": ["SECRET" * 50]}, {"n": "SECRET"}):
        async with client.post("/v1/completions", json={**OK, **change}) as response:
            assert response.status == 400
            assert "SECRET" not in await response.text()


async def test_a_body_over_the_limit_is_refused_before_it_is_read(client: aiohttp.ClientSession) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 2**20

    for body in (io.BytesIO(b" " * (5 * 2**20)), endless()):
        async with client.post("/v1/completions", data=body) as response:
            assert response.status == 413
            transport = response.connection and response.connection.transport
            error = (await response.json())["error"]
        if transport:  # closed politely it would wait, past the end of the test, to send what nobody reads
            transport.abort()
        assert error["message"] == "The body may have at most 4194304 bytes."
        assert error["code"] == "too_large"


async def test_unknown_addresses_and_methods_have_the_same_shape(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/chat/completions") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"
    async with client.get("/v1/completions") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"
    async with client.get("/v1/models/%ff%00") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "model_not_found"


async def test_an_unknown_model_is_refused_with_those_there_are(client: aiohttp.ClientSession) -> None:
    status, error = await refused(client, model="gpt-5", prompt="a")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"] == "There is no model 'gpt-5'. Models here: tiny, long, mood."


async def test_a_model_of_the_other_kind_is_refused_with_where_to_go(client: aiohttp.ClientSession) -> None:
    status, error = await refused(client, model="mood", prompt="a")
    assert (status, error["code"]) == (400, "wrong_task")
    expected = "The model 'mood' classifies texts, it cannot continue them: send it to /v1/classify instead."
    assert error["message"] == expected
    status, error = await refused(client, "/v1/classify", model="tiny", input="a")
    expected = "The model 'tiny' continues texts, it cannot classify them: send it to /v1/completions instead."
    assert (status, error["message"]) == (400, expected)


async def test_bytes_that_are_not_http_do_not_disturb_the_others(
    client: aiohttp.ClientSession, service: ServiceProcess
) -> None:
    for garbage in (
        b"\x00\xff" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n\r\n",
    ):
        reader, writer = await asyncio.open_unix_connection(str(service.socket_path))
        writer.write(garbage)
        async with asyncio.timeout(5):
            answer = await reader.read(200)
        assert answer.startswith(b"HTTP/1.1 4")
        writer.close()
        await writer.wait_closed()
    assert (await complete(client, max_tokens=1))["choices"]


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nX-Long: ", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000]
)
async def test_a_head_without_an_end_is_refused_before_it_fills_the_memory(
    service: ServiceProcess, start: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(service.socket_path))
    async with asyncio.timeout(10):
        writer.write(start)
        with suppress(ConnectionError):  # it hangs up while we still talk
            for _ in range(1000):
                writer.write(b"x" * 2**12)
                await writer.drain()
            raise AssertionError("4 MB of one head were taken")
        with suppress(ConnectionError):
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_many_requests_on_one_connection_do_not_count_as_one_long_head(service: ServiceProcess) -> None:
    reader, writer = await asyncio.open_unix_connection(str(service.socket_path))
    padding = b"X-Padding: " + b"y" * 20_000 + b"\r\n"
    async with asyncio.timeout(10):
        for _ in range(8):
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: service\r\n" + padding + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
