"""What a step frees is there for the next one, without asking the kernel for clean pages again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from model_service.training.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
blocks = [torch.ones(16 << 20) for _ in range(2)]
del blocks
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_large_blocks_are_not_faulted_in_twice() -> None:
    found = {}
    for how in ("kept", "given back"):
        command = [sys.executable, "-c", FAULTS, how]
        found[how] = int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert found["kept"] < found["given back"] / 4
