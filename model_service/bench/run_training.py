"""The contestants of `bench train`. A task is `new_tokens` steps of `batch` jokes; what a run returns is one row:
tokens of jokes learned from, microseconds between the first step's beginning and the last one's end, peak of bytes.
"""

import gzip
import json
import resource
import tempfile
import time
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from model_service.bench.contestants import Entry
from model_service.bench.task import Contestant, Task
from model_service.bench.threads import cores

GPT2_BPE = Path(__file__).parents[3] / "shared" / "data" / "gpt2-bpe"  # beside a checkout; else pairs of bytes
PROMPT = "JOKE:"
MAX_TOKENS = 256  # of a joke; what is longer is drawn again for nobody
LEARNING_RATE = 1e-4


def load(entry: Entry, folder: Path, device: str, jokes: Path) -> Contestant:
    """Load a contestant, in the process this is called in. jokes: a file that `read_jokes` reads."""
    import torch

    torch.set_num_threads(cores())
    method, _, computes = entry.weights.partition(" ")
    if entry.engine == "transformers":
        return UsualLoop(folder, device, jokes)
    return PackedLoop(folder, device, jokes, method, computes)


class Jokes:
    """Tokenizes jokes, the same for all."""

    def __init__(self, folder: Path, path: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        self._path = path
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["vocab_size"] == 50257 and GPT2_BPE.is_dir():
            vocab = json.loads(gzip.decompress((GPT2_BPE / "vocab.json.gz").read_bytes()))
            lines = gzip.decompress((GPT2_BPE / "merges.txt.gz").read_bytes()).decode().splitlines()
            pairs = [(a, b) for a, _, b in (line.partition(" ") for line in lines if line and line[:2] != "#v")]
            self.tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
            self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            self.tokenizer.decoder = decoders.ByteLevel()
        else:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.eos_token_id = config["vocab_size"] - 1
        self._longest = min(MAX_TOKENS, config["n_positions"])

    def of(self, task: Task) -> list[Any]:
        """Return the task's jokes as the training code encodes them."""
        from model_service.bench.train import read_jokes
        from model_service.training.dataset import Example, encode

        count = task.batch * task.new_tokens
        drawn = [Example(PROMPT, f" {joke}") for joke in read_jokes(self._path, 4 * count, task.seed)]
        fitting = [e for e in encode(drawn, self.tokenizer, self.eos_token_id) if len(e.input_ids) <= self._longest]
        return fitting[:count]


def learned(jokes: Seq[Any]) -> int:
    """Count the tokens of jokes: what follows the prompts."""
    return sum(len(joke.input_ids) - joke.num_prompt for joke in jokes)


def peak_bytes(device: str) -> int:
    """Return the most memory this process has held, on the GPU where that is measured."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class UsualLoop:
    """transformers' Trainer as its examples use it: FP32, a joke a row, padded to the longest of the batch."""

    def __init__(self, folder: Path, device: str, jokes: Path) -> None:
        from transformers import GPT2LMHeadModel

        self.weights = "full float32"
        self._jokes, self._device = Jokes(folder, jokes), device
        self._model: Any = GPT2LMHeadModel.from_pretrained(folder)

    def prepare(self, task: Task) -> None:
        """Nothing: a run makes its own Trainer."""

    def run(self, task: Task) -> Seq[Seq[int]]:
        """Train on the task's jokes."""
        import torch
        from transformers import Trainer, TrainerCallback, TrainingArguments

        jokes = self._jokes.of(task)
        moments: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                moments.append(time.perf_counter())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                moments.append(time.perf_counter())

        with tempfile.TemporaryDirectory(prefix="punchline-trainer-") as out:
            arguments = TrainingArguments(
                output_dir=out,
                per_device_train_batch_size=task.batch,
                max_steps=task.new_tokens,
                learning_rate=LEARNING_RATE,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=self._device == "cpu",
            )
            rows = [{"input_ids": joke.input_ids} for joke in jokes]
            trainer = Trainer(self._model, arguments, train_dataset=rows, data_collator=self._pad, callbacks=[Clock()])
            trainer.train()
        return [[learned(jokes), round((moments[-1] - moments[0]) * 1e6), peak_bytes(self._device)]]

    def _pad(self, rows: Seq[dict[str, list[int]]]) -> dict[str, Any]:
        """Lay jokes out as DataCollatorForLanguageModeling does."""
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), width)
        input_ids = torch.full(shape, self._jokes.eos_token_id)
        labels, mask = torch.full(shape, -100), torch.zeros(shape, dtype=torch.int64)
        for place, row in enumerate(rows):
            ids = torch.tensor(row["input_ids"])
            input_ids[place, : len(ids)] = labels[place, : len(ids)] = ids
            mask[place, : len(ids)] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": mask}


class PackedLoop:
    """Our own loop, as a job runs it. computes: a number format, or `auto`."""

    def __init__(self, folder: Path, device: str, jokes: Path, method: str, computes: str) -> None:
        import torch

        from model_service.training import precision
        from model_service.training.base_model import load_base
        from model_service.training.heap import keep_freed_memory
        from model_service.training.recipe import Recipe

        keep_freed_memory()  # as a job's process does
        self._jokes, self._device = Jokes(folder, jokes), device
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        asked: Any = computes
        adapter: Any = method
        self._recipe = Recipe(adapter, 1, 1, LEARNING_RATE, seed=0, precision=asked)
        self._computes = precision.choose(self._recipe, torch.device(device), config["n_embd"])
        self.weights = f"{method} {self._computes}"
        self._model = load_base(folder, torch.device(device), self._recipe, self._computes).model

    def prepare(self, task: Task) -> None:
        """Nothing: a run makes its own loop."""

    def run(self, task: Task) -> Seq[Seq[int]]:
        """Train on the task's jokes."""
        from dataclasses import replace

        import torch

        from model_service.training.checkpoints import Checkpoints
        from model_service.training.loop import Loop
        from model_service.training.objective import Material

        jokes = self._jokes.of(task)
        with tempfile.TemporaryDirectory(prefix="punchline-loop-") as out:
            loop = Loop(
                self._model,
                replace(self._recipe, batch_size=task.batch),
                Material(jokes, [], [], MAX_TOKENS),
                Checkpoints(Path(out)),
                Silent(),
                check=lambda: None,
                checkpoint_every_s=float("inf"),
                computes=self._computes,
            )
            began = time.perf_counter()
            for _ in range(task.new_tokens):
                loop.train_step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return [[learned(jokes), round((time.perf_counter() - began) * 1e6), peak_bytes(self._device)]]


class Silent:
    """A report that nobody reads."""

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        """Told after each step."""

    def look(self, look: Any, total_steps: int, is_best: bool) -> None:
        """Told after each look."""

    def warn(self, message: str) -> None:
        """Lack of memory would make the figures another measurement's."""
        raise MemoryError(message)
