"""Real models that do not fit together take turns, over the real socket: everyone is answered, and by the right one."""

import asyncio
import json
import random
from pathlib import Path

import aiohttp

from tests.service.talk import NEVER_END, complete, metric, stream, text_of
from tests.support.service_process import model_table, running_service
from tests.support.tiny_models import save_tiny_generator

NAMES = ("a", "b", "c")
ROOM = 'device_memory = {cpu = "60MiB"}\nmemory_margin = 0.0\nmax_num_seqs = 4\npreload = false'  # each takes 35 MiB
NO_RESERVE = '[training]\nreserve = "none"\n'


async def test_many_clients_of_three_models_of_which_one_fits_are_all_answered(tmp_path: Path) -> None:
    folders = {name: save_tiny_generator(tmp_path / name, seed=seed) for seed, name in enumerate(NAMES)}
    models = "".join(model_table(name, folder, weights="float32") for name, folder in folders.items())
    with running_service(models + NO_RESERVE, ROOM) as service:
        async with service.client() as client:
            expected = {name: await said(client, name, streamed=False) for name in NAMES}
            assert len(set(expected.values())) == 3
            dice = random.Random(1)

            async def visitor() -> None:
                for name in dice.sample(NAMES, 3):
                    assert await said(client, name, streamed=dice.random() < 0.5) == expected[name]

            await asyncio.gather(*(visitor() for _ in range(12)))
            async with client.get("/v1/models") as response:
                listing = await response.json()
            assert sorted(card["state"] for card in listing["data"]) == ["ready", "unloaded", "unloaded"]
            assert listing["devices"][0]["used_bytes"] <= listing["devices"][0]["total_bytes"]
            loads = {
                name: await metric(client, f'punchline_model_load_seconds_count{{model="{name}"}}') for name in NAMES
            }
            evictions = {
                name: await metric(client, f'punchline_model_evictions_total{{model="{name}"}}') for name in NAMES
            }
        assert sum(evictions.values()) == sum(loads.values()) - 1
        assert sum(loads.values()) < 39, json.dumps(loads)  # a load serves all who wait for it
        assert "Traceback" not in service.log, service.log


async def said(client: aiohttp.ClientSession, name: str, *, streamed: bool) -> str:
    """What a model says after the same words, greedily."""
    fields = {"model": name, "max_tokens": 12, "temperature": 0, **NEVER_END}
    if streamed:
        return text_of(await stream(client, **fields))
    text: str = (await complete(client, **fields))["choices"][0]["text"]
    return text
