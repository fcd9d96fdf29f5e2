"""What a model takes once it is loaded, beside what the plan said: real sizes, random weights, on a GPU."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_service.config import ModelSettings, ServiceSettings
from model_service.engine.engine import Engine
from model_service.models.shape import Shape
from model_service.placement.inventory import gpus
from model_service.placement.load import loader
from model_service.placement.loaded import Loaded
from model_service.placement.plan import ModelPlan
from model_service.placement.planner import DevicePlanner
from model_service.placement.variants import VARIANTS
from model_service.placement.wishes import Machine
from tests.engine.test_engine import ask, greedy
from tests.placement.builders import cpu
from tests.support.random_checkpoint import save_random

TOLERANCE = 0.05


async def load_as_planned(folder: Path, machine: Machine, service: ServiceSettings) -> tuple[ModelPlan, int, Engine]:
    """Plan and load a model, let it answer once; returns the plan, and by how much the first GPU's free memory fell."""
    spec = ModelSettings(name="random", source=str(folder))
    placed = DevicePlanner((spec,), service, lambda: machine).place(spec, [])
    before = free_bytes()
    loaded = loader(service)(spec, lambda done: None, placed)
    assert isinstance(loaded, Loaded)
    engine = loaded.model
    assert isinstance(engine, Engine)
    assert len((await ask(engine, "Why", greedy(8))).token_ids) == 8
    return placed, before - free_bytes(), engine


def free_bytes() -> int:
    gc.collect()
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(0)[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")
@pytest.mark.filterwarnings("ignore")  # torch's compiler has many of its own
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["gpt2-xl", "gpt-j-6b"])
async def test_a_gpu_gives_what_the_plan_said(name: str, tmp_path: Path) -> None:
    shape = VARIANTS[name]
    machine = Machine(tuple(gpus()[:1]))
    if machine.devices[0].budget(0.05) < 40 << 30:
        pytest.skip("needs a GPU with 40 GiB free")
    placed, taken, engine = await load_as_planned(save_random(tmp_path, shape), machine, ServiceSettings())
    await engine.close()
    planned = placed.device_bytes["cuda:0"]
    print(f"{name}: planned {planned / 1e9:.2f} GB, taken {taken / 1e9:.2f} GB, {taken / planned - 1:+.1%}")
    assert abs(taken - planned) <= TOLERANCE * planned


@pytest.mark.parametrize("name", ["gpt2", "gpt-j-6b"])
async def test_random_checkpoints_of_a_shape_load_and_answer(name: str, tmp_path: Path) -> None:
    """The way the measurement goes, on a CPU and with a small model."""
    shape = replace(VARIANTS[name], vocab_size=257, n_positions=64, n_embd=64, n_head=2, n_layer=3, n_inner=0)
    small: Shape = replace(shape, rotary_dim=8) if name == "gpt-j-6b" else shape  # type: ignore[call-arg]
    folder = save_random(tmp_path, small, shard_bytes=100_000)
    assert len(set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())) > 1
    machine = Machine((cpu(1),), fastest=lambda shape: ("float32", "float32"))
    placed, _, engine = await load_as_planned(folder, machine, ServiceSettings())
    assert [list(stage.layers) for stage in placed.stages] == [[0, 1, 2]]
    await engine.close()
