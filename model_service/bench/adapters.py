"""`bench adapters`: what LoRA adapters cost when every sequence of a batch may have its own.

One engine in one process, random adapters on all four linears of each layer. In each round it decodes the same number
of tokens without adapters, with one that all sequences share, and with one for each; the cost is the median over rounds
of what is lost against that round's run without.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_service.bench.children import in_child
from model_service.bench.models import open_model
from model_service.bench.report import Report, result
from model_service.bench.rounds import WrongTokens
from model_service.bench.session import Session
from model_service.bench.task import Task
from model_service.placement.load import share_cores

if TYPE_CHECKING:
    from model_service.engine.engine import Engine
    from model_service.models.lora import Host

BATCH, RANK, PROMPT_LEN, NEW_TOKENS = 8, 16, 16, 64
COUNTS = (0, 1, BATCH)  # adapters in a batch
COLUMNS = ("model", "weights", "adapters", "tokens/s", "cost")


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second in each round, by the number of adapters in the batch; and the base's number format."""

    weights: str
    by_count: Mapping[int, Seq[float]]

    def cost(self, count: int) -> float:
        """Return the median share of tokens per second that so many adapters take."""
        pairs = zip(self.by_count[count], self.by_count[0], strict=True)
        return statistics.median(1 - with_adapters / without for with_adapters, without in pairs)


def measure(source: str, rounds: int, session: Session) -> Report:
    """Measure one model, named as `bench decode` takes it. Raises ChildFailed."""
    machine = session.machine()
    with session.bar(1) as bar:
        bar.now(f"{source}: {rounds} rounds with {', '.join(map(str, COUNTS))} adapters")
        model = open_model(source, session.cache, session.log)
        speeds = in_child(session.log, "adapters.time_rounds", model.folder, session.device, rounds)
        bar.step()
    rows, objects = [], []
    for count in COUNTS:
        tokens_per_s, cost = statistics.median(speeds.by_count[count]), speeds.cost(count)
        rows.append((model.name, speeds.weights, str(count), f"{tokens_per_s:,.0f}", f"{cost:.1%}" if count else "–"))
        more = {"adapters": float(count), "cost": round(cost, 4)}
        objects.append(result("punchline", model.name, speeds.weights, BATCH, tokens_per_s, None, **more))
    title = (
        f"Batch {BATCH}, LoRA adapters of rank {RANK} on all four linears: {NEW_TOKENS} new tokens after {PROMPT_LEN},"
        f" new tokens per second over the whole call; medians of {rounds} alternating rounds."
    )
    return Report("adapters", title, COLUMNS, rows, objects, (f"Machine: {machine.line}.",))


def time_rounds(folder: Path, device: str, rounds: int) -> Speeds:
    """Load a model, put adapters on it and time all rounds. Runs in a child process."""
    share_cores()  # before torch is imported, as the service does
    from model_service.engine.engine import Engine
    from model_service.engine.loading import load

    engine = load(str(folder), "generate", model_id="bench", device=device, max_num_seqs=BATCH)
    assert isinstance(engine, Engine)
    return asyncio.run(_time_rounds(engine, folder, rounds))


async def _time_rounds(engine: "Engine", folder: Path, rounds: int) -> Speeds:
    from model_service.models.loading import read_checkpoint
    from model_service.models.lora import Host

    host = Host.of(read_checkpoint(str(folder), weights="float32").model)
    names = [f"adapter {i}" for i in range(max(COUNTS))]
    with _adapter_folders(host, len(names)) as folders:
        for name, adapter in zip(names, folders, strict=True):
            await engine.load_adapter(name, adapter)
    by_count: dict[int, list[float]] = {count: [] for count in COUNTS}
    for number in range(-1, rounds):  # the first one warms up
        first = number % len(COUNTS)
        for count in COUNTS[first:] + COUNTS[:first]:
            task = Task(BATCH, PROMPT_LEN, NEW_TOKENS, seed=number * len(COUNTS) + count)
            took_s = await _time(engine, task, names[:count] or [""])
            if number >= 0:
                by_count[count].append(task.batch * task.new_tokens / took_s)
    await engine.close()
    return Speeds(engine.weights, by_count)


async def _time(engine: "Engine", task: Task, adapters: Seq[str]) -> float:
    """Return the seconds that a task takes whose sequences have these adapters in turn. Raises WrongTokens."""
    from model_service.engine.sequence import SamplingParams

    params = SamplingParams(max_tokens=task.new_tokens, temperature=0)
    prompts = task.prompts(engine.vocab_size)
    began = time.perf_counter()
    streams = [engine.submit(ids, params, adapter=adapters[i % len(adapters)]) for i, ids in enumerate(prompts)]
    made = 0
    for stream in streams:
        async with stream:
            async for piece in stream:
                made += len(piece.token_ids)
    if made != task.batch * task.new_tokens:
        raise WrongTokens(f"made {made} tokens instead of {task.batch * task.new_tokens}")
    return time.perf_counter() - began


@contextmanager
def _adapter_folders(host: "Host", count: int) -> Iterator[list[Path]]:
    """Write random adapters as PEFT writes them."""
    import torch
    from safetensors.torch import save_file

    from model_service.models.folder import ADAPTER_CONFIG
    from model_service.models.lora import LINEARS, TENSORS

    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(LINEARS["gpt2"])}
    with tempfile.TemporaryDirectory(prefix="punchline-adapters-") as root:
        folders = [Path(root) / str(i) for i in range(count)]
        for seed, folder in enumerate(folders):
            folder.mkdir()
            (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
            generator = torch.Generator().manual_seed(seed)
            tensors = {}
            for layer in range(host.n_layer):
                for module, linear in LINEARS["gpt2"].items():
                    inputs, outputs = host.sizes(linear)
                    name = f"base_model.model.transformer.h.{layer}.{module}"
                    tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, inputs, generator=generator) * inputs**-0.5
                    tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, RANK, generator=generator) * 0.01
            save_file(tensors, folder / TENSORS)
        yield folders
