"""Loads a contestant by its name, in the process this is called in; no engine is imported before."""

from pathlib import Path

from model_service.bench.contestants import Entry
from model_service.bench.task import Contestant


def load(entry: Entry, path: Path, device: str) -> Contestant:
    """Load an engine's weights. path: what `BenchModel.path_for` returned; device: `cpu` or `cuda:0`."""
    match entry.engine:
        case "punchline":
            from model_service.bench.run_punchline import Punchline

            return Punchline(path, entry.weights, device)
        case "llama.cpp":
            from model_service.bench.run_llama_cpp import LlamaCpp

            return LlamaCpp(path, entry.weights, device)
        case "ctranslate2":
            from model_service.bench.run_ctranslate2 import CTranslate2

            return CTranslate2(path, entry.weights, device)
        case "transformers":
            from model_service.bench.run_transformers import Transformers

            return Transformers(path, entry.weights, device)
        case unknown:
            raise ValueError(f"there is no engine {unknown!r}")
