"""One fine-tune from its folder to a published model: read, train, judge, publish.

    job.json, *.jsonl ─ tokenize ─ Loop ─ best step ─ write aside ─ measure that ─ gate ─ models/ft:…/ ─ result.json

What is measured at the end is the very file that will be served. Weights that are not finite are never published.
"""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets

from model_service.training import evaluate, gate, judging, registry
from model_service.training.base_model import Base, read_back, weights_sha256, write_model
from model_service.training.dataset import Encoded, Example, encode
from model_service.training.examples import Row, fingerprint, too_few
from model_service.training.loop import Loop, TrainingFailed
from model_service.training.manifest import manifest
from model_service.training.objective import Material
from model_service.training.opening import open_base
from model_service.training.recipe import Recipe
from model_service.training.run import Run

log = logging.getLogger(__name__)

ROW_LEN = 256  # tokens a row holds, unless the context is shorter or an example longer
MAX_JUDGED = 400  # held-out jokes that are looked at; more would cost time and say little more
COLUMNS = datasets.Features({name: datasets.Value("string") for name in ("prompt", "completion", "id")})
HOW = {"lora": "an adapter beside the base in {}", "full": "all weights, passes in {}"}


@dataclass(frozen=True, slots=True)
class Part:
    """The examples of one side that fit a row, and how many do not."""

    rows: list[Row]
    encoded: list[Encoded]
    num_too_long: int


def read_part(path: Path, base: Base) -> Part:
    """Read and tokenize train.jsonl or held_out.jsonl; what is longer than the context is counted, never cut."""
    datasets.disable_progress_bars()
    dataset = datasets.load_dataset(
        "json", data_files=str(path), split="train", features=COLUMNS, cache_dir=str(path.parent / "cache")
    )

    def tokenize(lines: dict[str, list[str]]) -> dict[str, list[Any]]:
        examples = [Example(p, c) for p, c in zip(lines["prompt"], lines["completion"], strict=True)]
        encoded = encode(examples, base.tokenizer, base.eos_token_id)
        return {"input_ids": [e.input_ids for e in encoded], "num_prompt": [e.num_prompt for e in encoded]}

    dataset = dataset.map(tokenize, batched=True, keep_in_memory=True, new_fingerprint=path.stem)
    lines = [line for line in dataset if len(line["input_ids"]) <= base.context_len]
    return Part(
        [Row(line["prompt"], line["completion"], line["id"]) for line in lines],
        [Encoded(line["input_ids"], line["num_prompt"]) for line in lines],
        len(dataset) - len(lines),
    )


class Finetune(Run):
    """Runs one job in its folder. `check` is called often and raises Interrupted when the job must stop."""

    def run(self) -> None:
        """Train, judge, publish, and write result.json. Raises TrainingFailed or Interrupted.

        In a group all train, and the first process alone judges and publishes.
        """
        with self._group.leader_first():
            base, self._computes = open_base(self._folder, self._recipe)
            train = read_part(self._folder.path / "train.jsonl", base)
            held_out = read_part(self._folder.path / "held_out.jsonl", base)
        self._count(train, held_out)
        material = self._material(base, train, held_out)
        prompt = evaluate.commonest_prompt([Example(row.prompt, row.completion) for row in train.rows])
        before = []
        if self._group.leads:
            before = judging.heard_before(self._folder, base, prompt, self._recipe.seed, self._check)
        loop = self._loop(base.model, material)
        self._begin(loop)
        with self._group.closing():
            loop.run()
        if not self._group.leads:
            return
        self._progress.say(f"Training ended at step {loop.step}; the best was step {loop.best.step}. Judging it now.")
        if self._group.size > 1:  # what it has trained may lie in parts
            base, _ = open_base(self._folder, self._recipe)
        loop.load_best(base.model)
        self._finish(loop, base, material, train.rows, held_out.rows, prompt=prompt, before=before)

    def _count(self, train: Part, held_out: Part) -> None:
        too_long = train.num_too_long + held_out.num_too_long
        counts = self._job["counts"] | {
            "train": len(train.rows),
            "held_out": len(held_out.rows),
            "too_long": too_long,
        }
        self._progress.write(counts=counts)
        if sentence := too_few(counts["train"], counts["held_out"], too_long + counts["duplicates"]):
            raise TrainingFailed(sentence, "too_few_examples")

    def _material(self, base: Base, train: Part, held_out: Part) -> Material:
        judged = held_out.encoded[:MAX_JUDGED]
        longest = max(len(e.input_ids) for e in [*train.encoded, *judged])
        row_len = min(base.context_len, max(ROW_LEN, longest))
        general = evaluate.general_texts(base.tokenizer, base.eos_token_id, row_len)
        return Material(train.encoded, judged, general, row_len)

    def _begin(self, loop: Loop) -> None:
        counts = self._progress.counts
        self._progress.begin(
            f"Training on {counts['train']} jokes, {counts['held_out']} held out"
            f" ({counts['duplicates']} duplicates and {counts['too_long']} too long left out):"
            f" {loop.total_steps} steps at most, {HOW[self._recipe.adapter].format(self._computes)}.",
            loop.total_steps,
        )

    def _finish(
        self,
        loop: Loop,
        base: Base,
        material: Material,
        train: list[Row],
        held_out: list[Row],
        *,
        prompt: str,
        before: list[str],
    ) -> None:
        """Write the best step's weights aside, judge what is written, and publish it."""
        aside = written(base, self._recipe, self._models, self._job["fine_tuned_model"])
        seed = self._recipe.seed
        samples = evaluate.sample(
            base.model, base.tokenizer, prompt, eos_token_id=base.eos_token_id, seed=seed, between=self._check
        )
        jokes, kept = ([row.completion for row in rows] for rows in (train, held_out))
        evidence = judging.evidence_of(loop, samples, jokes, kept)
        verdict = gate.decide(evidence)
        metrics = {"best_step": loop.best.step, **evidence.figures()}
        lineage = manifest(
            self._folder,
            self._recipe,
            self._computes,
            verdict,
            metrics=metrics,
            sha256=weights_sha256(base.started_from),
            sides={
                side: [(row.id, fingerprint(row)) for row in rows]
                for side, rows in (("train", train), ("held_out", held_out))
            },
        )
        registry.publish(self._models, aside, lineage)
        self._folder.write_result(
            {
                "fine_tuned_model": self._job["fine_tuned_model"],
                "trained_tokens": loop.num_trained_tokens,
                "metrics": metrics,
                "gate": asdict(verdict),
                "evaluation": judging.evaluation(
                    evidence,
                    base,
                    material,
                    jokes,
                    (before, samples),
                    prompt=prompt,
                    seed=seed,
                ),
            }
        )


def written(base: Base, recipe: Recipe, models: Path, model_id: str) -> Path:
    """Write the trained model aside and read it back, so that what is judged is what is served. Returns the folder.

    Raises TrainingFailed if a number in it is not finite; nothing is left of it then.
    """
    aside = registry.begin(models, model_id)
    write_model(base.model, base, recipe, aside)
    if read_back(base.model, recipe, aside):
        return aside
    shutil.rmtree(aside)
    written_as = "float16, in which a GPU may run them" if recipe.adapter == "lora" else str(base.dtype)
    raise TrainingFailed(
        f"Some weights are not finite in {written_as}, so nothing is used of them; the old model is untouched."
        " A lower learning_rate_multiplier usually helps.",
        "non_finite_weights",
    )
