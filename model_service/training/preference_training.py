"""One training on preferences, from its folder to a published model: `finetune`, with pairs instead of jokes.

    job.json, *.jsonl ─ tokenize ─ reference ─ Loop (DPO) ─ best step ─ write aside ─ measure that ─ gate ─ models/ft:…/

The gate is that of jokes, on the held-out pairs' loss, and asks besides that most held-out pairs are preferred the way
people do.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_service.training import evaluate, gate, judging, registry
from model_service.training.base_model import Base, weights_sha256
from model_service.training.dataset import Encoded, Example, encode
from model_service.training.finetune import HOW, MAX_JUDGED, ROW_LEN, written
from model_service.training.gate import Evidence, Verdict
from model_service.training.loop import ROWS_PER_FORWARD, Loop, TrainingFailed
from model_service.training.manifest import manifest
from model_service.training.objective import Material
from model_service.training.opening import open_base
from model_service.training.preference_objective import PreferenceMaterial, accuracy, refer, without_dropout
from model_service.training.preferences import Preferred, fingerprint, too_few
from model_service.training.run import Run


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one side that fit a row."""

    rows: list[Preferred]
    encoded: list[tuple[Encoded, Encoded]]
    num_too_long: int


class PreferenceTraining(Run):
    """Runs one job in its folder. `check` is called often and raises Interrupted when the job must stop."""

    def run(self) -> None:
        """Train, judge, publish, and write result.json. Raises TrainingFailed or Interrupted."""
        base, self._computes = open_base(self._folder, self._recipe)
        without_dropout(base.model)
        self._train, self._held_out = self._read("train", base), self._read("held_out", base)
        self._count()
        material = self._material(base)
        self._prompt = evaluate.commonest_prompt([Example(row.prompt, row.chosen) for row in self._train.rows])
        before = judging.heard_before(self._folder, base, self._prompt, self._recipe.seed, self._check)
        loop = self._loop(base.model, material)
        self._begin(loop)
        loop.run()
        self._folder.add_event(
            f"Training ended at step {loop.step}; the best was step {loop.best.step}. Judging it now."
        )
        self._finish(loop, base, material, before)

    def _read(self, side: str, base: Base) -> Pairs:
        """Read and tokenize train.jsonl or held_out.jsonl; pairs that do not fit the context are counted, never cut."""
        lines = (self._folder.path / f"{side}.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [Preferred(**json.loads(line)) for line in lines if line]
        texts = (
            encode([Example(r.prompt, r.chosen) for r in rows], base.tokenizer, base.eos_token_id),
            encode([Example(r.prompt, r.rejected) for r in rows], base.tokenizer, base.eos_token_id),
        )
        encoded = list(zip(*texts, strict=True))
        fits = [len(c.input_ids) + len(r.input_ids) <= base.context_len for c, r in encoded]
        return Pairs(
            [row for row, fit in zip(rows, fits, strict=True) if fit],
            [pair for pair, fit in zip(encoded, fits, strict=True) if fit],
            fits.count(False),
        )

    def _count(self) -> None:
        num_train, num_held_out = len(self._train.rows), len(self._held_out.rows)
        too_long = self._train.num_too_long + self._held_out.num_too_long
        counts = self._job["counts"] | {"train": num_train, "held_out": num_held_out, "too_long": too_long}
        self._progress.write(counts=counts)
        if sentence := too_few(num_train, num_held_out, too_long + counts["duplicates"]):
            raise TrainingFailed(sentence, "too_few_examples")

    def _material(self, base: Base) -> PreferenceMaterial:
        train, judged = self._train.encoded, self._held_out.encoded[:MAX_JUDGED]
        longest = max(len(c.input_ids) + len(r.input_ids) for c, r in [*train, *judged])
        row_len = min(base.context_len, max(ROW_LEN, longest))
        pairs = refer(base.model, [*train, *judged], row_len, between=self._check)
        general = evaluate.general_texts(base.tokenizer, base.eos_token_id, row_len)
        return PreferenceMaterial(pairs[: len(train)], pairs[len(train) :], general, row_len, self._recipe.beta)

    def _begin(self, loop: Loop) -> None:
        counts = self._progress.counts
        self._progress.begin(
            f"Learning from {counts['train']} pairs of answers, {counts['held_out']} held out"
            f" ({counts['duplicates']} twins or contradictions and {counts['too_long']} too long left out):"
            f" {loop.total_steps} steps at most, {HOW[self._recipe.adapter].format(self._computes)}.",
            loop.total_steps,
        )

    def _finish(self, loop: Loop, base: Base, material: PreferenceMaterial, before: Sequence[str]) -> None:
        """Write the best step's weights aside, judge what is written, and publish it."""
        loop.load_best()
        aside = written(base, self._recipe, self._models, self._job["fine_tuned_model"])
        seed = self._recipe.seed
        samples = evaluate.sample(
            base.model, base.tokenizer, self._prompt, eos_token_id=base.eos_token_id, seed=seed, between=self._check
        )
        liked, kept = ([row.chosen for row in part.rows] for part in (self._train, self._held_out))
        evidence = judging.evidence_of(loop, samples, liked, kept)
        margin = material.margins(base.model, max_rows=ROWS_PER_FORWARD, between=self._check)
        right = accuracy(margin)
        verdict = decide(evidence, right, len(margin))
        metrics = {
            "best_step": loop.best.step,
            **evidence.figures(),
            "accuracy_before": 0.5,  # it is its own reference
            "accuracy_after": right,
            "margin_after": float(margin.mean()),
        }
        lineage = manifest(
            self._folder,
            self._recipe,
            self._computes,
            verdict,
            metrics=metrics,
            sha256=weights_sha256(base.started_from),
            sides={
                side: [(row.id, fingerprint(row)) for row in part.rows]
                for side, part in (("train", self._train), ("held_out", self._held_out))
            },
        )
        registry.publish(self._models, aside, lineage)
        self._folder.write_result(
            {
                "fine_tuned_model": self._job["fine_tuned_model"],
                "trained_tokens": loop.num_trained_tokens,
                "metrics": metrics,
                "gate": asdict(verdict),
                "evaluation": self._evaluation(base, material, evidence, (before, samples)),
            }
        )

    def _evaluation(
        self, base: Base, material: PreferenceMaterial, evidence: Evidence, heard: tuple[Sequence[str], Sequence[str]]
    ) -> dict[str, Any]:
        """Collect the figures for people, as after a training on jokes: on the held-out texts that people liked."""
        liked = Material([], [pair.chosen for pair in material.held_out], material.general, material.row_len)
        after = evaluate.losses(base.model, liked.held_out, liked.row_len, between=self._check)
        before = after.nats * 0 + [pair.reference[0] for pair in material.held_out]
        shown = Evidence(
            before,
            after.nats,
            after.nats,
            after.tokens,
            evidence.general_before,
            evidence.general_after,
            evidence.verbatim_rate,
            evidence.num_samples,
        )
        jokes = [row.chosen for row in self._train.rows]
        return judging.evaluation(shown, base, liked, jokes, heard, prompt=self._prompt, seed=self._recipe.seed)


def decide(evidence: Evidence, right: float, num_pairs: int) -> Verdict:
    """Weigh the evidence as for jokes. right: the share of held-out pairs that it prefers as people do."""
    verdict = gate.decide(evidence)
    preferred = f"{right:.0%} of {num_pairs} held-out pairs are preferred as people do, compared with the old model"
    if right > 0.5:
        return Verdict(verdict.passed, [f"{preferred}.", *verdict.reasons])
    return Verdict(False, [f"{preferred}. That is no better than chance.", *verdict.reasons])
