"""How several processes share a model, and that they leave together: two real ones, over gloo."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.support.service_process import environment

LIMIT_S = 120

# What each process does: share a model, pass through it, and leave, the second one late.
TOGETHER = """
import json, time
import torch
from torch.distributed.tensor import DTensor
from transformers import GPT2LMHeadModel
from model_service.training.parallel import Group, passes_of, whole
from model_service.training.recipe import resolve
from tests.support.tiny_models import tiny_config

def shared(adapter):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config())
    alone = sum(p.numel() for p in model.parameters())
    sums = {name: float(p.detach().double().sum()) for name, p in model.named_parameters()}
    passes = passes_of(model, resolve(num_train=100, adapter=adapter, seed=1), group)
    loss = passes(lambda m: m(input_ids=torch.tensor([[5, 6, 7 + group.rank]])).logits.float().square().mean())
    loss.backward()
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
    gradients = whole({name: p.grad for name, p in model.named_parameters()})
    fetched = whole(dict(model.named_parameters()))
    return {"kind": type(passes).__name__, "share": held / alone,
            "gradient": float(sum(g.double().sum() for g in gradients.values())),
            "same": all(abs(float(p.detach().double().sum()) - sums[n]) < 1e-6 for n, p in fetched.items())}

group = Group.from_environment()
with group.closing():
    told = {adapter: shared(adapter) for adapter in ("lora", "full")}
    if not group.leads:
        time.sleep(1.5)
    told["entered"] = time.monotonic()
told["left"] = time.monotonic()
print(json.dumps(told))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def run_two() -> list[dict[str, Any]]:
    """Let two processes do it; returns what each tells."""
    port = free_port()
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER],
            env={**environment(), **group, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": os.getcwd()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=LIMIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


@pytest.mark.timeout(180)
def test_adapters_are_whole_everywhere_all_weights_lie_in_halves_and_none_leaves_before_the_last() -> None:
    first, second = run_two()
    for adapter, kind, share in (("lora", "DistributedDataParallel", 1.0), ("full", "FSDP", 0.5)):
        for told in (first[adapter], second[adapter]):
            assert told["kind"].startswith(kind)
            assert told["share"] == pytest.approx(share, abs=0.05)
            assert told["same"], "what lies in parts is fetched whole"
        same = pytest.approx(second[adapter]["gradient"], rel=1e-6)
        assert first[adapter]["gradient"] == same, "one gradient, though the rows differ"
    assert first["left"] >= second["entered"], "who destroys the group while another still talks aborts it"
