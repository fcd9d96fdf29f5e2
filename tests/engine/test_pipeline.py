"""A split model: the same answers as in one piece, a step in each of its stages, and no stage that is waited for."""

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_service.engine.engine import Engine
from model_service.engine.engine_config import EngineConfig, Stage
from model_service.engine.flights import Flights, InTurn
from model_service.engine.forward import TorchForward
from model_service.engine.loading import load
from model_service.engine.micro_batches import MicroBatches
from model_service.engine.pipeline import Pipeline, pipelined
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import Piece, SamplingParams
from model_service.engine.stage_process import ProcessStages, split_over_processes
from model_service.engine.stage_wire import Part
from model_service.errors import EngineDead, ServiceError
from model_service.models.loading import CheckpointError, open_checkpoint
from tests.engine.test_engine import greedy, read
from tests.support.adapters import save_adapter
from tests.support.tiny_models import byte_tokenizer, save_tiny_generator

NUM_SLOTS = 8
NUM_LAYERS = 5
NEVER = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("split"), n_layer=NUM_LAYERS, eos_token_id=NEVER)


def cut(n_layer: int, *ends: int) -> list[range]:
    """The layers cut behind each of these."""
    return [range(start, end) for start, end in itertools.pairwise([0, *ends, n_layer])]


def config() -> EngineConfig:
    return EngineConfig("split", context_len=128, vocab_size=257, eos_token_id=NEVER, max_num_seqs=NUM_SLOTS)


@contextlib.asynccontextmanager
async def engine_on(flights: Flights) -> AsyncIterator[Engine]:
    engine = Engine(config(), flights, byte_tokenizer().backend_tokenizer)
    try:
        yield engine
    finally:
        await engine.close()


def whole(folder: Path) -> Flights:
    return InTurn(ModelRunner(TorchForward(open_checkpoint(str(folder)).read(), NUM_SLOTS)))


def on_threads(folder: Path, *ends: int) -> Pipeline:
    opened = open_checkpoint(str(folder))
    parts = [opened.read(layers=layers) for layers in cut(NUM_LAYERS, *ends)]
    return pipelined([TorchForward(part, NUM_SLOTS) for part in parts])


def in_processes(folder: Path, *ends: int) -> Pipeline:
    return split_over_processes([Part(str(folder), layers, "float32", NUM_SLOTS) for layers in cut(NUM_LAYERS, *ends)])


def requests() -> list[tuple[list[int], SamplingParams]]:
    """More than there are slots, of all kinds: short and long prompts, greedy and drawn, with log-probabilities."""
    torch.manual_seed(3)
    made = []
    for i in range(20):
        prompt = torch.randint(0, 256, (3 + 7 * (i % 9),)).tolist()
        params = SamplingParams(
            max_tokens=5 + 3 * (i % 7),
            temperature=0.0 if i % 2 else 0.9,
            seed=i,
            logprobs=2 if i % 5 == 0 else None,
            echo=i % 10 == 0,
        )
        made.append((prompt, params))
    return made


async def answers(engine: Engine, wanted: Seq[tuple[list[int], SamplingParams]]) -> list[Piece]:
    async with asyncio.timeout(30):
        return await asyncio.gather(*(read(engine.submit(prompt, params)) for prompt, params in wanted))


def check_same(got: Seq[Piece], expected: Seq[Piece]) -> None:
    """Same texts and tokens; log-probabilities to rounding, which depends on who shares a batch."""
    for one, other in zip(got, expected, strict=True):
        assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
        values = [[x.logprob for x in piece.logprobs] for piece in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-3)


@pytest.mark.parametrize("ends", [(2,), (1, 3), (1, 2, 3, 4)], ids=["two stages", "three stages", "five stages"])
async def test_a_split_model_answers_what_the_whole_one_answers(folder: Path, ends: tuple[int, ...]) -> None:
    async with engine_on(whole(folder)) as one:
        expected = await answers(one, requests())
    async with engine_on(on_threads(folder, *ends)) as engine:
        check_same(await answers(engine, requests()), expected)


async def test_a_model_split_over_processes_answers_what_the_whole_one_answers(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages = (Stage("cpu:0", range(2)), Stage("cpu:1", range(2, NUM_LAYERS)))
    read_so_far: list[tuple[int, int]] = []
    engine = await asyncio.to_thread(
        lambda: load(
            str(folder),
            "generate",
            model_id="split",
            weights="float32",
            stages=stages,
            max_num_seqs=NUM_SLOTS,
            progress=lambda done, total: read_so_far.append((done, total)),
        )
    )
    assert isinstance(engine, Engine)
    assert engine.device_map == (("layers 0-1", "cpu:0"), ("layers 2-4", "cpu:1"))
    assert read_so_far == sorted(read_so_far)
    assert read_so_far[-1][0] == read_so_far[-1][1], "both parts are counted"
    async with engine_on(whole(folder)) as one:
        expected = await answers(one, requests())
    check_same(await answers(engine, requests()), expected)
    await engine.close()
    assert "ended with" not in caplog.text, "both end in peace"


async def test_readers_that_leave_in_the_middle_change_nobodys_answer(folder: Path) -> None:
    """Each one that leaves makes two slots trade places while steps over them are in flight."""
    async with engine_on(whole(folder)) as one:
        expected = await answers(one, requests())
    async with engine_on(on_threads(folder, 1, 3)) as engine:

        async def leave_early() -> None:
            for i in range(12):
                async with engine.submit([i + 1] * (1 + i % 4), greedy(100)) as stream:
                    async for _ in stream:
                        break

        async with asyncio.timeout(30):
            _, got = await asyncio.gather(leave_early(), answers(engine, requests()))
        check_same(got, expected)
        assert engine.num_running == 0


class Gate:
    """A forward pass that says when it has begun and ends when it is told to."""

    def __init__(self, forward: TorchForward) -> None:
        self._forward = forward
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def hidden(self, chunks: Seq[Chunk], x: Tensor | None = None) -> Tensor:
        self.begun.release()
        assert self.go.acquire(timeout=20)
        return self._forward.hidden(chunks, x)


async def test_both_stages_work_at_the_same_time_on_different_sequences(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    gates = [Gate(TorchForward(opened.read(layers=layers), NUM_SLOTS)) for layers in cut(NUM_LAYERS, 2)]
    async with engine_on(pipelined(gates)) as engine:
        reads = [asyncio.create_task(read(engine.submit([i], greedy(40)))) for i in range(4)]
        met = 0
        async with asyncio.timeout(30):
            while not all(task.done() for task in reads):
                both = [gate.begun.acquire(timeout=0.05) for gate in gates]
                met += all(both)
                for gate, begun in zip(gates, both, strict=True):
                    if begun:
                        gate.go.release()
                await asyncio.sleep(0)
    assert met > 20, "a stage begins while the other one is in a step"


async def test_a_step_that_fails_in_a_stage_ends_those_in_it_and_the_rest_go_on(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    forwards = [TorchForward(opened.read(layers=layers), NUM_SLOTS) for layers in cut(NUM_LAYERS, 2)]
    plain, fails = forwards[1].hidden, threading.Event()

    def hidden(chunks: Seq[Chunk], x: Tensor | None = None) -> Tensor:
        if fails.is_set():
            fails.clear()
            raise RuntimeError("out of memory")
        return plain(chunks, x)

    forwards[1].hidden = hidden  # type: ignore[method-assign]
    async with engine_on(whole(folder)) as one:
        expected = await answers(one, requests())
    async with engine_on(pipelined(forwards)) as engine:
        fails.set()
        with pytest.raises(ServiceError, match="failed while it was answering"):
            await read(engine.submit([1, 2, 3], greedy(5)))
        check_same(await answers(engine, requests()), expected)


async def test_an_adapter_runs_in_every_stage(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", folder, seed=1)
    for pipeline in (on_threads(folder, 2), await asyncio.to_thread(in_processes, folder, 2)):
        async with engine_on(whole(folder)) as one, engine_on(pipeline) as engine:
            for each in (one, engine):
                await each.load_adapter("ours", adapter)
            wanted = [(e, a) for e in (one, engine) for a in ("ours", "")]
            ours, plain, our_part, plain_part = [
                await read(e.submit([7, 8, 9], greedy(12), adapter=a)) for e, a in wanted
            ]
            check_same([our_part, plain_part], [ours, plain])
            assert ours.token_ids != plain.token_ids
            engine.drop_adapter("ours")


async def test_when_a_stages_process_dies_everybody_is_told_and_the_others_end(folder: Path) -> None:
    pipeline = await asyncio.to_thread(in_processes, folder, 2)
    stages = pipeline.stages
    assert isinstance(stages, ProcessStages)
    async with engine_on(pipeline) as engine:
        stream = engine.submit([1, 2, 3], greedy(100))
        os.kill(stages.pids[1], signal.SIGKILL)
        with pytest.raises(ServiceError):
            await read(stream)
        with pytest.raises(EngineDead):
            engine.submit([1], greedy(1))
    for pid in stages.pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_part_that_cannot_be_loaded_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    folder = save_tiny_generator(tmp_path / "broken", n_layer=4)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(20_000)
    parts = [Part(str(folder), layers, "float32", 1) for layers in cut(4, 2)]
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        split_over_processes(parts)
    assert multiprocessing.active_children() == []


class TestMicroBatches:
    """One batch or one per stage: whichever gives more tokens a second."""

    def run(self, batches: MicroBatches, speeds: dict[int, float], num_streams: int, steps: int) -> Counter[int]:
        """Let steps end as fast as the choice makes them; returns how often each choice was made."""
        choices: Counter[int] = Counter()
        for _ in range(steps):
            choice = batches.choose(num_streams)
            choices[choice] += 1
            tokens = math.ceil(num_streams / choice)
            self.now = getattr(self, "now", 0.0) + tokens / speeds[choice]
            batches.record(tokens, 0, self.now)
        return choices

    @pytest.mark.parametrize(("speeds", "best"), [({1: 100, 2: 190}, 2), ({1: 100, 2: 60}, 1), ({1: 100, 2: 101}, 1)])
    def test_it_finds_the_faster_one_and_stays_with_it(self, speeds: dict[int, float], best: int) -> None:
        batches = MicroBatches(2)
        self.run(batches, speeds, 16, 60)
        assert self.run(batches, speeds, 16, 200)[best] == 200

    def test_it_notices_when_the_other_one_has_become_faster(self) -> None:
        batches = MicroBatches(2)
        self.run(batches, {1: 100, 2: 60}, 16, 100)
        self.run(batches, {1: 100, 2: 190}, 16, 3000)
        assert self.run(batches, {1: 100, 2: 190}, 16, 200)[2] >= 190

    def test_what_is_right_for_many_may_be_wrong_for_few(self) -> None:
        batches = MicroBatches(2)
        for _ in range(3):
            self.run(batches, {1: 100, 2: 190}, 64, 100)
            self.run(batches, {1: 100, 2: 60}, 8, 100)
        assert self.run(batches, {1: 100, 2: 190}, 64, 10)[2] == 10
        assert self.run(batches, {1: 100, 2: 60}, 8, 10)[1] == 10

    def test_fewer_sequences_than_stages_are_one_batch(self) -> None:
        assert MicroBatches(3).choose(2) == 1

    def test_steps_that_read_prompts_are_not_measured(self) -> None:
        batches = MicroBatches(2)
        for step in range(100):
            batches.choose(16)
            batches.record(8, 100, float(step))
        assert batches.rate(16, 2) is None
