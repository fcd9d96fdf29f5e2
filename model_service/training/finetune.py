"""One fine-tune from its folder to a published model: read, train, judge, publish.

    job.json, *.jsonl ─ tokenize ─ Loop ─ best step ─ merge, round ─ measure again ─ gate ─ models/ft:…/ ─ result.json

What is measured at the end is the very file that will be served. Weights that are not finite are never written.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

from model_service.training import evaluate, gate, judging, registry
from model_service.training.base_model import Base, load_base, merged, weights_sha256, with_adapter, write_model
from model_service.training.checkpoints import Checkpoints
from model_service.training.dataset import Encoded, Example, encode
from model_service.training.examples import Row, fingerprint, too_few
from model_service.training.folder import JobFolder
from model_service.training.loop import Look, Loop, Material, TrainingFailed
from model_service.training.recipe import Recipe

log = logging.getLogger(__name__)

ROW_LEN = 256  # tokens a row holds, unless the context is shorter or an example longer
MAX_JUDGED = 400  # held-out jokes that are looked at; more would cost time and say little more
MAX_COMPARED = 100  # held-out jokes that are searched for in the training jokes
PROGRESS_EVERY_S = 0.5
EVENTS_PER_RUN = 50
COLUMNS = datasets.Features({name: datasets.Value("string") for name in ("prompt", "completion", "id")})


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


class Finetune:
    """Runs one job in its folder. `check` is called often and raises Interrupted when the job must stop."""

    def __init__(
        self, folder: JobFolder, models: Path, *, check: Callable[[], None], checkpoint_every_s: float = 30.0
    ) -> None:
        self._folder, self._models, self._check = folder, models, check
        self._checkpoint_every_s = checkpoint_every_s
        self._job = folder.job
        self._recipe = Recipe(**self._job["recipe"])
        self._progress = folder.progress
        self._written_at = 0.0
        self._began_at, self._began_step = 0.0, 0

    def run(self) -> None:
        """Train, judge, publish, and write result.json. Raises TrainingFailed or Interrupted."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = self._load_base(device)
        train = read_part(self._folder.path / "train.jsonl", base)
        held_out = read_part(self._folder.path / "held_out.jsonl", base)
        self._count(train, held_out)
        material = self._material(base, train, held_out)
        prompt = evaluate.commonest_prompt([Example(row.prompt, row.completion) for row in train.rows])
        before = judging.heard_before(self._folder, base, prompt, self._recipe.seed, self._check)
        loop = Loop(
            with_adapter(base.model, self._recipe),
            self._recipe,
            material,
            Checkpoints(self._folder.checkpoints),
            self,
            check=self._check,
            checkpoint_every_s=self._checkpoint_every_s,
        )
        self._begin(loop)
        loop.run()
        self._folder.add_event(
            f"Training ended at step {loop.step}; the best was step {loop.best.step}. Judging it now."
        )
        self._finish(loop, base, material, train.rows, held_out.rows, prompt=prompt, before=before)

    def _load_base(self, device: torch.device) -> Base:
        folder = Path(self._job["base_folder"])
        if not (folder / "config.json").exists():
            model = self._job["request"]["model"]
            raise TrainingFailed(f"The model it should start from, {model}, is no longer there.", "base_missing")
        return load_base(folder, device)

    def _count(self, train: Part, held_out: Part) -> None:
        too_long = train.num_too_long + held_out.num_too_long
        counts = self._job["counts"] | {
            "train": len(train.rows),
            "held_out": len(held_out.rows),
            "too_long": too_long,
        }
        self._write(counts=counts)
        if sentence := too_few(counts["train"], counts["held_out"], too_long + counts["duplicates"]):
            raise TrainingFailed(sentence, "too_few_examples")

    def _material(self, base: Base, train: Part, held_out: Part) -> Material:
        judged = held_out.encoded[:MAX_JUDGED]
        longest = max(len(e.input_ids) for e in [*train.encoded, *judged])
        row_len = min(base.context_len, max(ROW_LEN, longest))
        general = evaluate.general_texts(base.tokenizer, base.eos_token_id, row_len)
        return Material(train.encoded, judged, general, row_len)

    def _begin(self, loop: Loop) -> None:
        counts = self._progress["counts"]
        if not self._folder.latest_step():
            self._folder.add_event(
                f"Training on {counts['train']} jokes, {counts['held_out']} held out"
                f" ({counts['duplicates']} duplicates and {counts['too_long']} too long left out):"
                f" {loop.total_steps} steps at most."
            )
        self._write(total_steps=loop.total_steps)
        self._began_at, self._began_step = time.monotonic(), self._folder.latest_step()

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        """Keep progress.json fresh, and add an event now and then."""
        pace = (time.monotonic() - self._began_at) / max(1, step - self._began_step)
        self._progress |= {"step": step, "loss": loss, "eta_s": round(pace * (total_steps - step), 1)}
        if time.monotonic() - self._written_at > PROGRESS_EVERY_S or step == total_steps:
            self._write()
        if step % max(1, total_steps // EVENTS_PER_RUN) == 0:
            metrics = {"step": step, "total_steps": total_steps, "train_loss": loss, "learning_rate": learning_rate}
            self._folder.add_event(f"Step {step}/{total_steps}: training loss={loss:.3f}", data=metrics)

    def look(self, look: Look, total_steps: int, is_best: bool) -> None:
        """Note the held-out loss, in the progress and as an event."""
        if look.step == 0:
            self._write(val_loss_before=look.val_loss)
        metrics = {
            "step": look.step,
            "total_steps": total_steps,
            "valid_loss": look.val_loss,
            "general_loss": look.general,
            "is_best": is_best,
        }
        note = ", the best so far" if is_best else ""
        self._folder.add_event(
            f"Held-out look at step {look.step}/{total_steps}: loss={look.val_loss:.3f}{note}", data=metrics
        )

    def _write(self, **changes: Any) -> None:
        self._progress |= changes
        self._folder.write_progress(self._progress)
        self._written_at = time.monotonic()

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
        """Judge the best step's weights as they will be stored, then store them."""
        loop.load_best()
        model = merged(loop.model, self._recipe, base.dtype)
        if not evaluate.finite(model.state_dict()):
            raise TrainingFailed(
                f"Some weights are not finite in {base.dtype}, so nothing is used of them; the old model is untouched."
                " A lower learning_rate_multiplier usually helps.",
                "non_finite_weights",
            )
        model = model.float()
        seed = self._recipe.seed
        samples = evaluate.sample(
            model, base.tokenizer, prompt, eos_token_id=base.eos_token_id, seed=seed, between=self._check
        )
        evidence = self._evidence(loop, model, material, samples, train, held_out)
        verdict = gate.decide(evidence)
        metrics = {"best_step": loop.best.step, **evidence.figures()}
        self._publish(model.to(base.dtype), base, metrics, verdict, {"train": train, "held_out": held_out})
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
                    [row.completion for row in train],
                    (before, samples),
                    prompt=prompt,
                    seed=seed,
                ),
            }
        )

    def _evidence(
        self, loop: Loop, model: Any, material: Material, samples: list[str], train: list[Row], held_out: list[Row]
    ) -> gate.Evidence:
        """Measure the finished model beside the one the job started from."""
        after = evaluate.losses(model, material.held_out, material.row_len, between=self._check)
        general = evaluate.losses(model, material.general, material.row_len, between=self._check)
        jokes = [row.completion for row in train]
        return gate.Evidence(
            before=loop.looks[0].nats,
            after=after.nats,
            judged=loop.judged(),
            tokens=after.tokens,
            general_before=loop.looks[0].general,
            general_after=general.per_token,
            verbatim_rate=evaluate.verbatim_rate(samples, jokes),
            num_samples=len(samples),
            natural_rate=evaluate.verbatim_rate([row.completion for row in held_out[:MAX_COMPARED]], jokes),
        )

    def _publish(
        self, model: Any, base: Base, metrics: dict[str, Any], verdict: gate.Verdict, sides: dict[str, list[Row]]
    ) -> None:
        manifest = {
            "id": self._job["fine_tuned_model"],
            "created_at": int(time.time()),
            "job": self._folder.id,
            "base": self._job["base"],
            "started_from": self._job["request"]["model"],
            "started_from_sha256": weights_sha256(base.folder),
            "training_file": self._job["request"]["training_file"],
            "seed": self._recipe.seed,
            "hyperparameters": asdict(self._recipe),
            "metrics": metrics,
            "gate": asdict(verdict),
            "code_version": registry.code_version(),
            "examples": [
                {"id": row.id, "sha256": fingerprint(row), "side": side} for side, rows in sides.items() for row in rows
            ],
        }
        registry.publish(self._models, manifest, lambda folder: write_model(model, base, folder))
