"""One training of a classifier, from its folder to a published model.

    job.json, *.jsonl ─ tokenize ─ Loop ─ best step ─ merge ─ write aside ─ measure that ─ gate ─ models/ft:…/

It is served whole, whatever was trained: a classifier has an engine of its own. A base that knows the same labels
keeps its head; any other gets a new one.
"""

import json
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from model_service.training import label_gate, registry
from model_service.training.base_model import Base, trainable, weights_sha256
from model_service.training.dataset import Encoded
from model_service.training.finetune import HOW, ROW_LEN, written
from model_service.training.label_gate import Answers, LabelEvidence
from model_service.training.label_objective import LabelledText, LabelMaterial
from model_service.training.labelled import Labelled, fingerprint
from model_service.training.loop import ROWS_PER_FORWARD, Loop, TrainingFailed
from model_service.training.manifest import manifest
from model_service.training.opening import open_base
from model_service.training.run import Run

MAX_JUDGED = 1000  # held-out texts that are looked at
HEAD_STD = 0.02  # GPT-2's own


class ClassifierTraining(Run):
    """Runs one job in its folder. `check` is called often and raises Interrupted when the job must stop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._labels: list[str] = self._job["labels"]

    def run(self) -> None:
        """Train, judge, publish, and write result.json. Raises TrainingFailed or Interrupted."""
        base = self._open()
        train, held_out = self._read("train", base), self._read("held_out", base)
        material = self._material(train, held_out, base)
        loop = self._loop(base.model, material)
        self._begin(loop)
        loop.run()
        self._folder.add_event(f"Training ended at step {loop.step}; the best was step {loop.best.step}.")
        before = self._before(material)
        loop.load_best()
        self._finish(loop, base, material, before)

    def _open(self) -> Base:
        names = dict(enumerate(self._labels))
        base, self._computes = open_base(
            self._folder,
            self._recipe,
            kind=AutoModelForSequenceClassification,
            num_labels=len(names),
            id2label=names,
            label2id={name: i for i, name in names.items()},
            ignore_mismatched_sizes=True,
        )
        if not self._job["keeps_head"]:
            luck = torch.Generator().manual_seed(self._recipe.seed)
            for name, weight in trainable(base.model).items():
                if "score" in name:
                    weight.data = torch.empty(weight.shape).normal_(std=HEAD_STD, generator=luck).to(weight.device)
        return base

    def _read(self, side: str, base: Base) -> list[tuple[Labelled, LabelledText]]:
        """Read and tokenize train.jsonl or held_out.jsonl."""
        lines = (self._folder.path / f"{side}.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [Labelled(**json.loads(line)) for line in lines if line]
        ids = [found.ids for found in base.tokenizer.encode_batch([r.text for r in rows], add_special_tokens=False)]
        place = {name: i for i, name in enumerate(self._labels)}
        return [
            (row, LabelledText(Encoded(list(tokens), 0), place[row.label]))
            for row, tokens in zip(rows, ids, strict=True)
        ]

    def _material(self, train: Any, held_out: Any, base: Base) -> LabelMaterial:
        """Keep what fits the context; what does not is counted, never cut."""
        sides = [
            [(row, text) for row, text in part if 0 < len(text.encoded.input_ids) <= base.context_len]
            for part in (train, held_out)
        ]
        self._used = {side: [row for row, _ in part] for side, part in zip(("train", "held_out"), sides, strict=True)}
        counts = {"train": len(sides[0]), "held_out": len(sides[1])}
        too_long = len(train) + len(held_out) - sum(counts.values())
        self._progress.write(counts=self._job["counts"] | counts | {"too_long": too_long})
        if {text.label for _, text in sides[0]} != set(range(len(self._labels))) or not sides[1]:
            raise TrainingFailed(
                f"{too_long} texts are longer than the {base.context_len} tokens this model reads, and those left do"
                " not show every label. Use shorter texts, or a model with a longer context.",
                "too_few_examples",
            )
        judged = [text for _, text in sides[1]][:MAX_JUDGED]
        learned = [text for _, text in sides[0]]
        longest = max(len(text.encoded.input_ids) for text in [*learned, *judged])
        return LabelMaterial(learned, judged, min(base.context_len, max(ROW_LEN, longest)))

    def _begin(self, loop: Loop) -> None:
        counts = self._progress.counts
        head = "keeping the head it has" if self._job["keeps_head"] else "with a new head"
        self._progress.begin(
            f"Training on {counts['train']} texts with {len(self._labels)} labels, {counts['held_out']} held out"
            f" ({counts['duplicates']} duplicates, {counts['contradictions']} with two labels and {counts['too_long']}"
            f" too long left out), {head}: {loop.total_steps} steps at most,"
            f" {HOW[self._recipe.adapter].format(self._computes)}.",
            loop.total_steps,
        )

    def _before(self, material: LabelMaterial) -> Answers:
        """Return what there is to beat: the model it started from, or the commonest label for a new head."""
        if not self._job["keeps_head"]:
            train, held_out = ([text.label for text in side] for side in (material.train, material.held_out))
            return label_gate.most_common(train, held_out, self._labels)
        whole = replace(self._recipe, adapter="full")
        untouched, _ = open_base(self._folder, whole, kind=AutoModelForSequenceClassification)
        return self._answers(f"{self._job['request']['model']} before", untouched.model, material)

    def _answers(self, name: str, model: Any, material: LabelMaterial) -> Answers:
        logits = material.logits(model, max_rows=ROWS_PER_FORWARD, between=self._check)
        labels = torch.tensor([text.label for text in material.held_out])
        nats = cross_entropy(logits, labels, reduction="none").double().numpy()
        return Answers(name, nats, logits.argmax(-1).tolist())

    def _finish(self, loop: Loop, base: Base, material: LabelMaterial, before: Answers) -> None:
        """Merge, write aside, judge what is written, and publish it."""
        whole = base if self._recipe.adapter == "full" else replace(base, model=base.model.merge_and_unload())
        model_id = self._job["fine_tuned_model"]
        aside = written(whole, replace(self._recipe, adapter="full"), self._models, model_id)
        evidence = LabelEvidence(
            [text.label for text in material.held_out],
            before,
            self._answers("after", whole.model, material),
            loop.judged(),
        )
        verdict = label_gate.decide(evidence)
        metrics = {"best_step": loop.best.step, **evidence.figures()}
        lineage = manifest(
            self._folder,
            self._recipe,
            self._computes,
            verdict,
            metrics=metrics,
            sha256=weights_sha256(base.started_from),
            sides={side: [(row.id, fingerprint(row)) for row in rows] for side, rows in self._used.items()},
        )
        registry.publish(self._models, aside, lineage)
        confusion = evidence.confusion(len(self._labels))
        self._folder.add_event(table(self._labels, confusion), data={"step": loop.best.step, **metrics})
        self._folder.write_result(
            {
                "fine_tuned_model": model_id,
                "task": "classify",
                "trained_tokens": loop.num_trained_tokens,
                "metrics": metrics,
                "gate": asdict(verdict),
                "confusion": {"labels": self._labels, "matrix": confusion},
            }
        )


def table(labels: list[str], confusion: list[list[int]]) -> str:
    """Write a confusion matrix as a sentence for each label."""
    lines = []
    for label, row in zip(labels, confusion, strict=True):
        answers = ", ".join(f"{count} as {other}" for other, count in zip(labels, row, strict=True) if count)
        lines.append(f"{label}: {answers or 'none held out'}")
    return "Confusion on the held-out texts, by their right label. " + "; ".join(lines) + "."
