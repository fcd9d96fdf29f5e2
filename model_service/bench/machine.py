"""Says on which machine the figures were measured, in one line."""

import datetime
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from model_service.bench.children import in_child
from model_service.bench.threads import cores


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor and memory. gb_s: measured reads of the CPU's memory, or copies (read + written) of the GPU's."""

    processor: str
    memory_gib: float
    gb_s: float
    gpu: bool
    torch: str
    date: str

    @property
    def line(self) -> str:
        """One line for people."""
        measured = "measured copies" if self.gpu else "measured reads"
        return (
            f"{self.processor}, {self.memory_gib:.0f} GiB, {measured} {self.gb_s:.1f} GB/s, "
            f"torch {self.torch}, {self.date}"
        )


def describe(log: Path, *, gpu: bool) -> Machine:
    """Look at the machine and measure its memory, in a child process."""
    if gpu:
        name, memory_gib = in_child(log, "bandwidth.gpu_name_and_memory_gib")
    else:
        name = f"{cpu_name()}, {cores()} cores"
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gb_s = in_child(log, "bandwidth.copy_gb_s" if gpu else "bandwidth.read_gb_s")
    torch_version = importlib.metadata.version("torch")
    return Machine(name, memory_gib, gb_s, gpu, torch_version, datetime.date.today().isoformat())


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name with what of it matters here: AVX-512, VNNI, BF16, AMX."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split("\t", 1) for line in text.partition("\n\n")[0].splitlines() if "\t" in line)
    values = {name: value.strip(": \t") for name, value in fields.items()}
    flags = values.get("flags", "").split()
    shown = {"avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "amx_int8": "AMX"}
    features = " ".join(label for flag, label in shown.items() if flag in flags)
    family = f"family {values.get('cpu family', '?')} model {values.get('model', '?')}"
    return f"{values.get('model name', platform.machine())} ({family}{', ' if features else ''}{features})"
