"""The C library takes the settings that keep freed memory. What that saves is seen in `bench train`."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_glibc_takes_both_settings() -> None:
    ask = "from model_service.training.heap import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "True"
