"""How the service's tests talk to it: short calls that say what they mean."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

Json = dict[str, Any]
EOS_ID = 256  # of the tiny models
NEVER_END = {"logit_bias": {str(EOS_ID): -100}}
LIMIT_S = 20.0


async def complete(client: aiohttp.ClientSession, **fields: Any) -> Json:
    """Complete with the tiny model; fails with the service's sentence if it refuses."""
    async with client.post("/v1/completions", json={"model": "tiny", "prompt": "JOKE:", **fields}) as response:
        answer: Json = await response.json()
        assert response.status == 200, answer
        return answer


async def refused(client: aiohttp.ClientSession, path: str = "/v1/completions", **fields: Any) -> tuple[int, Json]:
    """Return the status and the error of a request that is expected to be refused."""
    async with client.post(path, json=fields) as response:
        return response.status, (await response.json())["error"]


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Lines of a stream without the empty ones: comments as they are, data without its prefix."""
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    async for raw in response.content:
        if line := raw.decode().rstrip("\n"):
            yield line.removeprefix("data: ")


async def stream(client: aiohttp.ClientSession, **fields: Any) -> list[Json]:
    """Stream with the tiny model to the end; returns the chunks. The stream must end in [DONE]."""
    body = {"model": "tiny", "prompt": "JOKE:", "stream": True, **fields}
    async with client.post("/v1/completions", json=body) as response:
        lines = [line async for line in events(response) if not line.startswith(":")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks: list[Json], index: int = 0) -> str:
    """Join the text of one choice."""
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


async def metric(client: aiohttp.ClientSession, sample: str) -> float:
    """Read one sample, like `punchline_queue_length{model="long"}`; 0 if it is not there yet."""
    async with client.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
    return 0.0


async def wait_for_metric(client: aiohttp.ClientSession, sample: str, wanted: float) -> None:
    """Wait until a sample has the wanted value."""
    seen = await metric(client, sample)
    try:
        async with asyncio.timeout(LIMIT_S):
            while seen != wanted:
                await asyncio.sleep(0.02)
                seen = await metric(client, sample)
    except TimeoutError:
        raise AssertionError(f"{sample} is {seen}, not {wanted}") from None
