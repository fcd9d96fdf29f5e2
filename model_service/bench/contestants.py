"""Which engines run in which number formats on this machine. No engine is imported here."""

import importlib.util
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

ENGINES = ("punchline", "llama.cpp", "ctranslate2", "transformers")
OURS = ENGINES[0]
NEEDS = {"llama.cpp": ("llama_cpp", "gguf"), "ctranslate2": ("ctranslate2",)}
INSTALL = "pip install 'punchline[bench]'"
BF16_FLAGS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Entry:
    """An engine with a number format, by the name people see."""

    engine: str
    weights: str

    def __str__(self) -> str:
        return f"{self.engine} {self.weights}"


def missing(engine: str) -> list[str]:
    """Return the packages an engine lacks here."""
    return [name for name in NEEDS.get(engine, ()) if importlib.util.find_spec(name) is None]


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether the CPU has instructions for BF16 products."""
    try:
        flags = cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return any(flag in flags for flag in BF16_FLAGS)


def formats(engine: str, *, gpu: bool = False, every: bool = False) -> tuple[str, ...]:
    """Return the number formats in which an engine runs: those that can be its fastest, or all it has."""
    if gpu:
        return {
            "punchline": ("float16",),
            "llama.cpp": (),  # its wheel is built for the CPU
            "ctranslate2": ("float16",),
            "transformers": ("float16", "float16 static", "float16 continuous"),
        }[engine]
    if engine == "llama.cpp":
        return ("F32", "F16", "BF16", "Q8_0") if every else ("Q8_0", "F16", *(("BF16",) if multiplies_bf16() else ()))
    if engine == "punchline":
        return ("float32", "bfloat16", "int8") if every else ("auto",)
    if engine == "ctranslate2":
        return ("float32", "int8")
    return ("float32", "bfloat16")


def entries(engines: Seq[str], *, gpu: bool = False, every: bool = False) -> list[Entry]:
    """Return what is to be measured, in the order of ENGINES."""
    return [Entry(e, w) for e in ENGINES if e in engines for w in formats(e, gpu=gpu, every=every)]
