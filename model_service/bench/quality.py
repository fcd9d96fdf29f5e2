"""`bench quality`: what a number format costs in quality, and whether batch mates change an answer."""

from collections.abc import Sequence as Seq
from pathlib import Path

from model_service.bench.children import ChildFailed, in_child
from model_service.bench.models import open_model
from model_service.bench.quality_scores import Scores
from model_service.bench.report import Report, result
from model_service.bench.session import Session
from model_service.bench.texts import read_texts

FORMATS = ("float32", "bfloat16", "float16", "int8")  # FP16 is slow on a processor, and yet as exact as on a GPU
GPU_FORMATS = ("float32", "float16", "bfloat16")


def measure(source: str, texts_path: Path, limit: int | None, session: Session) -> Report:
    """Compare each number format to plain float32 on the same texts. Raises ChildFailed without a model."""
    model = open_model(source, session.cache, session.log)
    texts = read_texts(texts_path)[:limit]
    formats = GPU_FORMATS if session.gpu else FORMATS
    found: list[Scores] = []
    with session.bar(len(formats)) as bar:
        for weights in formats:
            bar.now(f"{model.name} {weights}")
            try:
                where = (model.folder, weights, session.device, model.eos_token_id)
                found.append(in_child(session.log, "quality_scores.score", *where, texts))
            except ChildFailed as error:
                session.say(f"{model.name} {weights} is left out: {error}")
            bar.step()
    return report(model.name, texts_path.name, found)


def report(model: str, texts: str, found: Seq[Scores]) -> Report:
    """Return the table; changes are relative to the plain float32 that each format was measured beside."""
    rows = [
        [
            model,
            s.weights,
            f"{s.top1_agreement:.2%}",
            f"{s.mean_kl:.2e}",
            f"{s.logits_error:.2e}",
            f"{s.bits_per_character:.4f}",
            f"{s.bits_per_character / s.reference_bits_per_character - 1:+.3%}",
            _said(s.alone_agreement, ".1%"),
            _said(s.alone_difference, ".1e"),
            _said(s.strangers_difference, ".1e"),
        ]
        for s in found
    ]
    objects = [
        result(
            "punchline",
            model,
            s.weights,
            s.batch,
            None,
            None,
            top1_agreement=s.top1_agreement,
            mean_kl=s.mean_kl,
            logits_error=s.logits_error,
            bits_per_character=s.bits_per_character,
            bits_per_character_change=s.bits_per_character / s.reference_bits_per_character - 1,
            alone_agreement=s.alone_agreement,
            alone_difference=s.alone_difference,
            strangers_difference=s.strangers_difference,
        )
        for s in found
    ]
    columns = (
        *("model", "weights", "top-1", "mean KL, nats", "logits' error", "bits per character", "change"),
        *("alone or in the batch: top-1", "largest difference", "other strangers: largest difference"),
    )
    tokens, batch = (found[0].tokens, found[0].batch) if found else (0, 0)
    title = (
        f"Against plain float32 on {tokens:,} tokens of {texts} (logits' error: relative, root of the mean square); "
        f"and the logits of a prompt alone, in a batch of "
        f"{batch}, and in one with {batch - 1} other strangers."
    )
    return Report("quality", title, columns, rows, objects)


def _said(figure: float | None, how: str) -> str:
    return "not measured" if figure is None else format(figure, how)
