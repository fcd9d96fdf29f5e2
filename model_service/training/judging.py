"""The figures a moderator compares: the model a job started from beside the one it made, on the same texts and seeds.

    before training   what the old model says          before.json, so that a restart need not ask again
    after             what the new one says with the same seeds
                      ── evaluation ──>  {"before": figures, "after": figures, "samples": pairs, …}  in result.json

The gate decides by `gate.Evidence`; this is for people to see why, and to hear both.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_service.training import durable, evaluate
from model_service.training.base_model import Base
from model_service.training.folder import JobFolder
from model_service.training.gate import Evidence
from model_service.training.loop import Loop
from model_service.training.objective import Material
from model_service.training.output_filter import is_held_back

SAMPLES_KEPT = 8
MAX_COMPARED = 100  # held-out jokes that are searched for in the training jokes


@dataclass(frozen=True, slots=True)
class Figures:
    """One model in numbers. Losses are nats per token, rates shares of the samples."""

    loss: float
    bits_per_char: float
    general_loss: float
    general_bits_per_char: float
    distinct_2: float
    verbatim_rate: float
    filter_hits: int


def heard_before(folder: JobFolder, base: Base, prompt: str, seed: int, between: Callable[[], None]) -> list[str]:
    """Return what the untouched base says to `prompt`; a job that goes on reads what it noted the first time."""
    path = folder.path / "before.json"
    noted = durable.read_json(path)
    if noted is None:
        texts = evaluate.sample(
            base.model, base.tokenizer, prompt, eos_token_id=base.eos_token_id, seed=seed, between=between
        )
        noted = {"prompt": prompt, "seed": seed, "texts": texts}
        durable.write_json(path, noted)
    return list(noted["texts"])


def evidence_of(loop: Loop, samples: Sequence[str], learned: Sequence[str], held_out: Sequence[str]) -> Evidence:
    """Measure the finished model, which the loop holds, beside the one it started from.

    learned, held_out: the texts of both sides; some held-out ones say how often texts are alike by nature.
    """
    after = loop.measure()
    return Evidence(
        before=loop.looks[0].nats,
        after=after.nats,
        judged=loop.judged(),
        tokens=after.tokens,
        general_before=loop.looks[0].general,
        general_after=after.general,
        verbatim_rate=evaluate.verbatim_rate(samples, learned),
        num_samples=len(samples),
        natural_rate=evaluate.verbatim_rate(held_out[:MAX_COMPARED], learned),
    )


def evaluation(
    evidence: Evidence,
    base: Base,
    material: Material,
    jokes: Sequence[str],
    heard: tuple[Sequence[str], Sequence[str]],
    *,
    prompt: str,
    seed: int,
) -> dict[str, Any]:
    """Collect both models' figures and what they said; `heard` is (before, after), drawn from the same seeds."""
    characters = evaluate.num_characters(material.held_out, base.tokenizer)
    general_characters = evaluate.num_characters(material.general, base.tokenizer)
    general_tokens = evaluate.num_labelled(material.general)

    def figures(nats: float, general: float, texts: Sequence[str], verbatim_rate: float) -> Figures:
        return Figures(
            loss=nats / float(evidence.tokens.sum()),
            bits_per_char=evaluate.bits_per_character(nats, characters),
            general_loss=general,
            general_bits_per_char=evaluate.bits_per_character(general * general_tokens, general_characters),
            distinct_2=evaluate.distinct_2(texts),
            verbatim_rate=verbatim_rate,
            filter_hits=sum(map(is_held_back, texts)),
        )

    before, after = heard
    return {
        "before": asdict(
            figures(
                float(evidence.before.sum()),
                evidence.general_before,
                before,
                evaluate.verbatim_rate(before, jokes),
            )
        ),
        "after": asdict(figures(float(evidence.after.sum()), evidence.general_after, after, evidence.verbatim_rate)),
        "num_held_out": len(material.held_out),
        "num_general": len(material.general),
        "num_samples": len(after),
        "prompt": prompt,
        "samples": [
            {"seed": seed + i, "before": old.strip(), "after": new.strip()}
            for i, (old, new) in enumerate(zip(before[:SAMPLES_KEPT], after[:SAMPLES_KEPT], strict=True))
        ],
    }
