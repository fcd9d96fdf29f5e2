"""The real service on a CPU cut into budgets: models go where the plan has them, cut where they must be."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.operations.builders import clean_environment, punchline
from tests.support.service_process import ServiceProcess, model_table, running_service
from tests.support.tiny_models import save_tiny_generator

MIB = 1 << 20
BUDGETS = 'device_memory = {"cpu:0" = "80MiB", "cpu:1" = "80MiB", "cpu:2" = "150MiB"}\nmemory_margin = 0.0\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One model twice, cut over two budgets and whole on the third, and one that nothing holds."""
    base = tmp_path_factory.mktemp("models")
    model, huge = save_tiny_generator(base / "m", n_layer=12, n_embd=256), base / "huge"
    huge.mkdir()
    config = json.loads((model / "config.json").read_text()) | {"n_layer": 100}
    (huge / "config.json").write_text(json.dumps(config))  # that alone says it does not fit
    models = (
        model_table("cut", model, weights="float32")
        + 'devices = ["cpu:0", "cpu:1"]\n'
        + model_table("whole", model, weights="float32")
        + 'devices = ["cpu:2"]\n'
        + model_table("huge", huge, weights="float32")
    )
    lines = f'{BUDGETS}max_num_seqs = 4\n[training]\nreserve = "none"\n'
    with running_service(models, lines, ready=False) as started:
        yield started


async def cards(service: ServiceProcess) -> dict[str, Any]:
    """What `GET /v1/models` says, once nothing loads any more."""
    async with asyncio.timeout(75), service.client() as client:
        while True:
            async with client.get("/v1/models") as response:
                answer: dict[str, Any] = await response.json()
            if not {card["state"] for card in answer["data"]} & {"loading", "unloaded"}:
                return answer
            await asyncio.sleep(0.1)


async def complete(client: aiohttp.ClientSession, model: str) -> str:
    body = {"model": model, "prompt": "Why did the chicken", "temperature": 0, "max_tokens": 24}
    async with client.post("/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return str(answer["choices"][0]["text"])


async def test_a_cut_model_answers_as_the_whole_one_and_what_fits_nowhere_says_its_numbers(
    service: ServiceProcess,
) -> None:
    answer = await cards(service)
    card = {card["id"]: card for card in answer["data"]}
    assert {name: one["state"] for name, one in card.items()} == {"cut": "ready", "whole": "ready", "huge": "failed"}
    assert card["cut"]["device_map"] == {"layers 0-5": "cpu:0", "layers 6-11": "cpu:1"}
    assert card["whole"]["device_map"] == {"layers 0-11": "cpu:2"}
    assert card["cut"]["why"].startswith(
        "Needs 89 MiB in one piece, with one sequence, and no device has more than 80 MiB"
    )
    assert card["huge"]["error"].startswith("huge does not fit: it needs 3")
    assert card["huge"]["error"].endswith("cpu:0 80 MiB, cpu:1 80 MiB, cpu:2 150 MiB.")
    totals = {device["name"]: device["total_bytes"] for device in answer["devices"]}
    assert totals == {"cpu:0": 80 * MIB, "cpu:1": 80 * MIB, "cpu:2": 150 * MIB}
    for device in answer["devices"]:
        planned = sum(one["device_bytes"].get(device["name"], 0) for one in card.values())
        assert device["used_bytes"] == planned <= device["total_bytes"]
    async with service.client() as client:
        texts = [await complete(client, name) for name in ("cut", "whole")]
    assert texts[0] == texts[1]
    assert texts[0]


async def test_the_command_beside_the_service_shows_the_same_plan(service: ServiceProcess) -> None:
    answer = await cards(service)
    env = clean_environment(CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.getcwd())
    ended = await asyncio.to_thread(punchline, "plan", "--json", cwd=service.home, env=env)
    made = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert ended.stderr.startswith("huge does not fit: ")
    shown = {model["name"]: model["bytes"] for model in made["models"]}
    assert shown == {card["id"]: card["device_bytes"] for card in answer["data"] if card["state"] == "ready"}
    assert made["devices"] == answer["devices"]
