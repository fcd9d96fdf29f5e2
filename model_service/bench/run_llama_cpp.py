"""llama.cpp as a contestant: one context for the whole batch, one `llama_decode` per step, numpy's argmax.

That is its low-level interface; the `Llama` class above it runs one sequence at a time. Flash attention and
the way the sequences share the cache are tried out for each size of task, and the fastest pair is kept.
"""

import ctypes
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from model_service.bench.task import Task
from model_service.bench.threads import cores

TRIAL_TOKENS, TRIALS, TRIAL_S = 16, 3, 3.0
UBATCH = 512  # tokens llama.cpp computes at once, its default


def _print_nothing(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """Take a line of llama.cpp's log."""


SILENT = llama.llama_log_callback(_print_nothing)  # C calls it: it must live as long as the library


class LlamaCpp:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path, weights: str, device: str) -> None:
        llama.llama_log_set(SILENT, ctypes.c_void_p())
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        self._model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {path.name}")
        self.weights = weights
        self._vocab_size = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model)))
        self._context: Any = None
        self._batch: Any = None

    def prepare(self, task: Task) -> None:
        """Keep the fastest of llama.cpp's own ways for tasks of this size."""
        if self._batch is not None:
            llama.llama_batch_free(self._batch)
        self._batch = llama.llama_batch_init(task.batch * task.prompt_len, 0, 1)
        trial = replace(task, new_tokens=min(TRIAL_TOKENS, task.new_tokens))
        options = list(itertools.product((0, 1), (False, True) if task.batch > 1 else (True,)))
        best = min(options, key=lambda option: self._time(trial, *option))
        self._open(task, *best)

    def _time(self, trial: Task, flash: int, unified: bool) -> float:
        """Return the seconds of the best of three runs; a single one where that is long already."""
        self._open(trial, flash, unified)
        times: list[float] = []
        while len(times) < TRIALS and sum(times) < TRIAL_S:
            began = time.perf_counter()
            self.run(trial)
            times.append(time.perf_counter() - began)
        return min(times)

    def _open(self, task: Task, flash: int, unified: bool) -> None:
        if self._context is not None:
            llama.llama_free(self._context)
        params = llama.llama_context_default_params()
        length = task.prompt_len + task.new_tokens
        params.n_ctx = task.batch * (-(-length // 256) * 256)  # llama.cpp pads each sequence's part to 256
        params.n_seq_max = task.batch
        params.n_batch = max(UBATCH, task.batch * task.prompt_len)
        params.n_ubatch = UBATCH
        params.n_threads = params.n_threads_batch = cores()
        params.flash_attn_type = flash
        params.kv_unified = unified
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError("llama.cpp could not make its context")

    def run(self, task: Task) -> list[list[int]]:
        """Read all prompts, then step all sequences together."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        prompts = np.array(task.prompts(self._vocab_size), np.int32)  # (B, T)
        positions = np.tile(np.arange(task.prompt_len, dtype=np.int32), task.batch)
        wanted = np.zeros_like(prompts, np.int8)
        wanted[:, -1] = 1
        sequences = np.repeat(np.arange(task.batch), task.prompt_len)
        token_ids = self._step(prompts.ravel(), positions, sequences, wanted.ravel())
        made = [token_ids]
        ones, each = np.ones(task.batch, np.int8), np.arange(task.batch)
        for i in range(task.new_tokens - 1):
            token_ids = self._step(token_ids, np.full(task.batch, task.prompt_len + i, np.int32), each, ones)
            made.append(token_ids)
        answers: list[list[int]] = np.stack(made, axis=1).tolist()
        return answers

    def _step(
        self, token_ids: NDArray[Any], positions: NDArray[Any], sequences: NDArray[Any], wanted: NDArray[np.int8]
    ) -> NDArray[np.int32]:
        """Decode tokens (N,); returns the likeliest next one for each that is wanted, in their order."""
        batch, count = self._batch, len(token_ids)
        batch.n_tokens = count
        np.ctypeslib.as_array(batch.token, (count,))[:] = token_ids
        np.ctypeslib.as_array(batch.pos, (count,))[:] = positions
        np.ctypeslib.as_array(batch.logits, (count,))[:] = wanted
        np.ctypeslib.as_array(batch.n_seq_id, (count,))[:] = 1
        for i, sequence in enumerate(sequences.tolist()):
            batch.seq_id[i][0] = sequence
        if status := llama.llama_decode(self._context, batch):
            raise ValueError(f"llama_decode failed with {status}")
        rows = int(wanted.sum())
        logits = np.ctypeslib.as_array(llama.llama_get_logits(self._context), (rows, self._vocab_size))
        best: NDArray[np.int32] = logits.argmax(axis=-1).astype(np.int32)
        return best
