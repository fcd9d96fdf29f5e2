"""A child process: loads a model through the pool, answers with it, lets it go, and prints its RSS as it goes.

Arguments: the model's folder and its weights. Prints JSON: bytes before, with the model, and after, of two rounds.
"""

import asyncio
import json
import sys
from pathlib import Path

from model_service.config import ModelSettings, ServiceSettings
from model_service.engine.sequence import SamplingParams
from model_service.placement.load import leave_modules_alone, loader, share_cores
from model_service.placement.pool import Pool


def rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


async def answer(pool: Pool) -> int:
    """Let the model say something; returns the RSS while it is there."""
    with pool.generating("model") as visit:
        model = await visit.model()
        async with model.submit([1, 2, 3], SamplingParams(max_tokens=8, temperature=0)) as stream:
            ended = asyncio.Event()
            stream.listen(lambda last: ended.set() if last else None)
            await ended.wait()
        return rss_bytes()


async def gone(pool: Pool) -> None:
    while True:
        if not pool.num_in_memory:
            return
        await asyncio.sleep(0.01)


async def measure(folder: str, weights: str) -> list[dict[str, int]]:
    pool = Pool(loader(ServiceSettings()))
    rounds = []
    for _ in range(2):
        before = rss_bytes()
        await pool.load(ModelSettings.model_validate({"name": "model", "source": folder, "weights": weights}))
        there = await answer(pool)
        await pool.unload("model")
        await gone(pool)
        rounds.append({"before": before, "with": there, "after": rss_bytes()})
    await pool.close()
    return rounds


if __name__ == "__main__":
    share_cores()
    import model_service.engine.loading  # noqa: F401  (torch and all of ours, before the first figure)

    leave_modules_alone()
    print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2]))))
