"""An engine that dies under its requests: they hear it, the next are told when to come back, and it is there again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from model_service.api.app import create_app
from model_service.config import ModelSettings, ServiceSettings
from model_service.engine.engine import Engine
from model_service.engine.engine_config import EngineConfig
from model_service.engine.flights import InTurn
from model_service.engine.runner import Runner
from model_service.placement import failures
from model_service.placement.load import loader
from model_service.placement.loaded import Loaded
from model_service.placement.loads import Progress
from model_service.placement.pool import Pool
from model_service.placement.room import Placement
from tests.support.shelf import LIMIT_S, reaches
from tests.support.tiny_models import byte_tokenizer


class Breaking:
    """A runner none of whose steps works."""

    def step(self, chunks: object) -> list[Any]:
        raise RuntimeError("the device fell off the bus")

    def move(self, move: object) -> None: ...
    def copy(self, copy: object) -> None: ...
    def clear(self, slot: int) -> None: ...


class FirstBroken:
    """The real loader, but the first engine breaks."""

    def __init__(self) -> None:
        self._load, self.engines = loader(ServiceSettings()), list[Engine]()

    def __call__(self, spec: ModelSettings, progress: Progress, placement: Placement) -> Loaded:
        if not self.engines:
            config = EngineConfig("tiny", context_len=100, vocab_size=257, eos_token_id=256)
            engine = Engine(config, InTurn(cast(Runner, Breaking())), byte_tokenizer().backend_tokenizer)
            loaded = Loaded(engine, Path(spec.source), {}, 0, "float32")
        else:
            loaded = cast(Loaded, self._load(spec, progress, placement))
        self.engines.append(cast(Engine, loaded.model))
        return loaded


@pytest.fixture
async def watched(tiny_folder: Path) -> AsyncIterator[tuple[Pool, FirstBroken]]:
    load = FirstBroken()
    pool = Pool(load)
    pool.expect([ModelSettings(name="tiny", source=str(tiny_folder), weights="float32")])
    watching = asyncio.create_task(pool.watch(), name="watching")
    yield pool, load
    watching.cancel()
    await pool.close()


async def test_a_dead_engine_is_there_again_and_meanwhile_every_request_is_told_what_to_do(
    watched: tuple[Pool, FirstBroken], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, load = watched
    monkeypatch.setattr("model_service.placement.pool.CHECK_S", 0.01)
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 60.0)
    app = create_app(pool, service=ServiceSettings(), remove=never)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client, asyncio.timeout(LIMIT_S):
        died = [await post(client) for _ in range(3)]
        assert [answer.status_code for answer in died] == [500, 500, 503]
        assert died[-1].headers["Retry-After"] == "2"
        told = await post(client)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "model_failed")
        assert told.json()["error"]["message"].startswith(
            "The model 'tiny' could not be loaded: its engine has stopped; the log says why. It is tried again"
        )
        assert 0 < int(told.headers["Retry-After"]) <= 60
        later = failures.monotonic() + 61
        monkeypatch.setattr(failures, "monotonic", lambda: later)
        await reaches(pool, "tiny", "ready")
        assert len(load.engines) == 2
        answer = await post(client)
        assert answer.status_code == 200
        assert len(answer.json()["choices"]) == 1
    assert not load.engines[0].alive


async def post(client: httpx2.AsyncClient) -> httpx2.Response:
    return await client.post("/v1/completions", json={"model": "tiny", "prompt": "a", "max_tokens": 3})


async def never(model_id: str) -> None:
    raise AssertionError(model_id)
