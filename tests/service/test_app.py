"""The app over a scripted model: what happens when something breaks that real models hardly ever break."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx2
import pytest
from fastapi import APIRouter
from tokenizers import Tokenizer

from model_service.api.app import create_app
from model_service.config import ModelSettings, ServiceSettings
from model_service.engine.sequence import Piece, SamplingParams
from model_service.errors import DeadlinePassed, EngineDead
from model_service.placement.loaded import Generator, Loaded
from model_service.placement.pool import Pool

Script = list[Piece | Exception]


class ScriptedStream:
    """Says what the script says, and remembers that it was left."""

    position: int | None = None
    eta_s: float | None = None

    def __init__(self, script: Script) -> None:
        self.error: Exception | None = None
        self.left = False
        self._script = list(script)
        self._piece: Piece | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.left = True

    def listen(self, news: Callable[[bool], None]) -> None:
        self._news = news
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._script and self._piece is None:
            item = self._script.pop(0)
            if isinstance(item, Exception):
                self.error = item
            else:
                self._piece = item
            self._news(self.error is not None or not self._script)

    def take(self) -> Piece | None:
        piece, self._piece = self._piece, None
        asyncio.get_running_loop().call_soon(self._next)
        return piece


class ScriptedModel:
    """A model whose every answer is the same script."""

    context_len, vocab_size, num_running, num_waiting, reused_tokens, alive = 100, 257, 0, 0, 0, True
    tokenizer = cast(Tokenizer, None)

    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams: list[ScriptedStream] = []
        self.deadlines_s: list[float | None] = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def submit(
        self, prompt_ids: list[int], params: SamplingParams, user: str = "", *, deadline_s: float | None = None
    ) -> ScriptedStream:
        self.streams.append(ScriptedStream(self.script))
        self.deadlines_s.append(deadline_s)
        return self.streams[-1]

    async def close(self) -> None:
        return None


@asynccontextmanager
async def app_over(script: Script, *routers: APIRouter) -> AsyncIterator[tuple[httpx2.AsyncClient, ScriptedModel]]:
    """An app with one model, `tiny`, and a client that sees what the app answers instead of what it raises."""
    model = ScriptedModel(script)
    pool = Pool(lambda spec, progress, placement: Loaded(cast(Generator, model), Path("/models"), {}, 0, "float32"))
    await pool.load(ModelSettings(name="tiny", source="x"))
    app = create_app(pool, service=ServiceSettings(), remove=never, extra_routers=routers)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client, model


async def never(model_id: str) -> None:
    raise AssertionError(model_id)


async def post(client: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    return await client.post("/v1/completions", json={"model": "tiny", "prompt": "a", **fields})


BROKEN: list[tuple[Exception, int, str]] = [
    (EngineDead(), 503, "engine_dead"),
    (DeadlinePassed(300), 504, "deadline_passed"),
    (ValueError("SECRET of a bug"), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), BROKEN)
async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(error: Exception, status: int, code: str) -> None:
    async with app_over([Piece("so"), error]) as (client, model):
        answer = await post(client, stream=True, n=2)
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert [json.loads(line)["choices"][0]["text"] for line in lines[:-1]] == ["so", "so"]
    assert json.loads(lines[-1])["error"]["code"] == code
    assert "SECRET" not in answer.text
    assert all(stream.left for stream in model.streams)


@pytest.mark.parametrize(("error", "status", "code"), BROKEN)
async def test_an_error_before_the_answer_is_the_answer(error: Exception, status: int, code: str) -> None:
    async with app_over([Piece("so"), error]) as (client, model):
        answer = await post(client, n=2)
        metrics = (await client.get("/metrics")).text
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "SECRET" not in answer.text
    assert all(stream.left for stream in model.streams)
    assert f'punchline_requests_total{{method="POST",route="/v1/completions",status="{status}"}} 1.0' in metrics


async def test_a_bug_in_a_route_is_a_500_in_the_same_shape() -> None:
    broken = APIRouter()

    @broken.get("/v1/broken")
    async def fail() -> None:
        raise ValueError("SECRET")

    async with app_over([], broken) as (client, _):
        answer = await client.get("/v1/broken")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {
            "message": "Something went wrong inside the model service; its log says what.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
    }


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda stream: None, []),
        (lambda stream: setattr(stream, "position", 3), [": queue position=3"]),
        (
            lambda stream: (setattr(stream, "position", 2), setattr(stream, "eta_s", 4.21)),
            [": queue position=2 eta_s=4.2"],
        ),
    ],
)
async def test_a_waiting_stream_says_where_it_stands_once(
    edit: Callable[[ScriptedStream], object], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_service.api.event_stream.QUEUE_COMMENT_S", 0.01)

    class Waiting(ScriptedStream):
        def _next(self) -> None:
            asyncio.get_running_loop().call_later(0.1, super()._next)

    async with app_over([]) as (client, model):
        stream = Waiting([Piece("so", finish_reason="stop")])
        edit(stream)
        monkeypatch.setattr(model, "submit", lambda *given, **named: stream)
        answer = await post(client, stream=True)
    assert [line for line in answer.text.splitlines() if line.startswith(":")] == expected
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_body_that_stops_coming_is_refused_with_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_service.api.gate.BODY_SILENCE_S", 0.01)

    async def stalling() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with app_over([]) as (client, _):
        answer = await client.post(
            "/v1/completions", content=stalling(), headers={"Content-Type": "application/json"}, timeout=5
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")


async def test_every_answer_has_the_deadline_of_the_settings() -> None:
    async with app_over([Piece("so", finish_reason="stop")]) as (client, model):
        assert (await post(client, n=2)).status_code == 200
    assert model.deadlines_s == [ServiceSettings().answer_limit_s] * 2 == [300.0] * 2
