"""Requests for models that are not there: they wait and are told so, in a stream, in one piece, and to classify."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive

from model_service.api.app import create_app
from model_service.config import ServiceSettings
from model_service.placement.pool import Pool
from tests.service.talk import complete, events, metric, refused, stream
from tests.support.service_process import model_table, running_service
from tests.support.shelf import LIMIT_S, Shelf, reaches, spec


async def never(model_id: str) -> None:
    raise AssertionError(model_id)


@asynccontextmanager
async def app_over(
    shelf: Shelf, *, limit_s: float = LIMIT_S
) -> AsyncIterator[tuple[httpx2.AsyncClient, Pool, FastAPI]]:
    """An app with two models that nobody has asked for yet."""
    pool = Pool(shelf, load_limit_s=limit_s)
    pool.expect([spec("gpt2-xl", "big"), spec("mood", "big", "classify")])
    app = create_app(pool, service=ServiceSettings(), remove=never)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client, pool, app
    for gate in shelf.gates.values():
        gate.set()
    await pool.close()


def held_back(**broken: Exception) -> Shelf:
    shelf = Shelf()
    shelf.gates["big"] = threading.Event()
    shelf.broken = dict(broken)
    return shelf


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/completions",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}


def whole_body(**fields: Any) -> Receive:
    """A client that sends its request and stays."""
    parts = [{"type": "http.request", "body": json.dumps(fields).encode(), "more_body": False}]

    async def receive() -> Message:
        return parts.pop() if parts else await asyncio.get_running_loop().create_future()

    return receive


def post(client: httpx2.AsyncClient, **fields: Any) -> asyncio.Task[httpx2.Response]:
    body = {"model": "gpt2-xl", "prompt": "a", **fields}
    return asyncio.create_task(client.post("/v1/completions", json=body), name="asking")


async def test_a_stream_says_how_far_the_load_is_when_the_number_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_service.api.event_stream.LOADING_COMMENT_S", 0.01)
    shelf = held_back(big=ValueError("torn"))
    async with app_over(shelf) as (_, pool, app):
        sent: asyncio.Queue[Message] = asyncio.Queue()
        asking = asyncio.create_task(app(SCOPE, whole_body(model="gpt2-xl", prompt="a", stream=True), sent.put))
        async with asyncio.timeout(LIMIT_S):
            assert (await sent.get())["status"] == 200  # before the load ends
            assert (await sent.get())["body"] == b": loading gpt2-xl 0 %\n\n"
            await asyncio.to_thread(shelf.started.wait, LIMIT_S)
            for progress in (0.001, 0.432, 0.434, 0.999):
                shelf.progress["gpt2-xl"](progress)
                if progress != 0.001 and progress != 0.434:  # the number is the same
                    assert (await sent.get())["body"] == f": loading gpt2-xl {int(100 * progress)} %\n\n".encode()
            assert pool.find("gpt2-xl").progress == 0.999
            shelf.gates["big"].set()
            end = await sent.get()
            await asking
    error = json.loads(end["body"].removeprefix(b"data: "))["error"]
    assert (error["code"], error["message"]) == ("model_failed", "The model 'gpt2-xl' could not be loaded: torn")
    assert not end["more_body"]


async def test_past_the_limit_it_is_503_with_when_to_come_back() -> None:
    async with app_over(held_back(), limit_s=0.05) as (client, _, _):
        streamed, whole = post(client, stream=True), post(client)
        mood = await client.post("/v1/classify", json={"model": "mood", "input": "a"})
        for answer in (await whole, mood):
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["error"]["code"] == "model_loading"
            assert "after 0.05 seconds, which is the limit here" in answer.json()["error"]["message"]
        last = (await streamed).text.splitlines()[-2]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_loading"


async def test_whoever_leaves_stops_waiting_and_the_load_goes_on_for_the_others() -> None:
    shelf = held_back()
    async with app_over(shelf) as (_, pool, _):
        leaver, stayer = pool.generating("gpt2-xl"), pool.generating("gpt2-xl")
        assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
        leaver.close()
        shelf.gates["big"].set()
        async with asyncio.timeout(LIMIT_S):
            await stayer.model()
        stayer.close()
        assert shelf.order == ["gpt2-xl"]


async def test_the_last_one_to_leave_lets_the_load_end_and_the_next_finds_the_model() -> None:
    shelf = held_back()
    async with app_over(shelf) as (_, pool, _):
        with pool.generating("gpt2-xl"):
            assert await asyncio.to_thread(shelf.started.wait, LIMIT_S)
        shelf.gates["big"].set()
        await reaches(pool, "gpt2-xl", "ready")
        with pool.generating("gpt2-xl") as visit:
            assert visit.over


async def test_a_name_cannot_break_the_stream() -> None:
    shelf = held_back()
    pool = Pool(shelf, load_limit_s=0.05)
    pool.expect([spec("two\nlines", "big")])
    app = create_app(pool, service=ServiceSettings(), remove=never)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
        answer = await post(client, model="two\nlines", stream=True)
    assert answer.text.startswith(": loading two lines 0 %\n\ndata: ")
    shelf.gates["big"].set()
    await pool.close()


async def test_a_service_without_preload_loads_what_is_asked_for(tiny_folder: Path, mood_folder: Path) -> None:
    """Ready at once; a stream has its headers while the model loads; all who want one model wait for one load."""
    models = model_table("tiny", tiny_folder, weights="float32") + model_table("mood", mood_folder, "classify")
    with running_service(models, "preload = false") as service:
        async with service.client() as client:
            assert await cards(client) == {"tiny": "unloaded", "mood": "unloaded"}
            await shows_the_devices(client)
            body = {"model": "tiny", "prompt": "JOKE:", "stream": True, "max_tokens": 4, "temperature": 0}
            async with client.post("/v1/completions", json=body) as response:
                others = asyncio.gather(complete(client, max_tokens=4, temperature=0), stream(client, max_tokens=4))
                leaver = asyncio.create_task(complete(client, max_tokens=4), name="leaver")
                lines = [line async for line in events(response)]
                leaver.cancel()
            assert lines[0] == ": loading tiny 0 %"
            assert lines[-1] == "[DONE]"
            text = "".join(json.loads(line)["choices"][0]["text"] for line in lines if line.startswith("{"))
            assert text == (await others)[0]["choices"][0]["text"]
            async with client.post("/v1/classify", json={"model": "mood", "input": "hm"}) as response:
                assert response.status == 200, await response.text()
            assert await cards(client) == {"tiny": "ready", "mood": "ready"}
            assert await metric(client, 'punchline_model_load_seconds_count{model="tiny"}') == 1
            await shows_where_they_are(client)
            status, error = await refused(client, model="nobody", prompt="a")
            assert (status, error["code"]) == (404, "model_not_found")
        assert "Traceback" not in service.log, service.log


async def cards(client: aiohttp.ClientSession) -> dict[str, str]:
    async with client.get("/v1/models") as response:
        return {card["id"]: card["state"] for card in (await response.json())["data"]}


async def shows_the_devices(client: aiohttp.ClientSession) -> None:
    """They are found although nothing is loaded."""
    async with asyncio.timeout(30):
        while True:
            async with client.get("/v1/models") as response:
                if [device["name"] for device in (await response.json())["devices"]] == ["cpu"]:
                    return
            await asyncio.sleep(0.05)


async def shows_where_they_are(client: aiohttp.ClientSession) -> None:
    """The cards and the devices tell the same story, and so do the metrics."""
    async with client.get("/v1/models") as response:
        listing = await response.json()
    [device] = listing["devices"]
    assert device["name"] == "cpu"
    planned = [card["device_bytes"]["cpu"] for card in listing["data"]]
    assert device["used_bytes"] == sum(planned) < device["total_bytes"]
    for card, size in zip(listing["data"], planned, strict=True):
        assert size > card["bytes"] > 0
        assert (card["pinned"], card["progress"]) == (False, None)
        assert card["why"].endswith(".")
        assert await metric(client, f'punchline_model_bytes{{device="cpu",model="{card["id"]}"}}') == size
    assert await metric(client, 'punchline_device_used_bytes{device="cpu"}') == device["used_bytes"]
