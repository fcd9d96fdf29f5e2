"""Scores one number format against plain float32, and a prompt against itself in a batch. Runs in a child process.

Both go through `Forward`, the border between the engine and its models: what is compared is what the engine draws from.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_service.bench.task import Task
from model_service.bench.texts import Text
from model_service.placement.load import share_cores

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from model_service.engine.forward import Forward
    from model_service.engine.sequence import Sequence

SLOTS = 8  # texts that are read at once
BATCH = 32
STEPS = 16  # after the prompt
PROMPT_LEN = 24
PROMPTS = 4  # that are read alone and among two sets of strangers


@dataclass(frozen=True, slots=True)
class Scores:
    """What was found for one number format. Differences are of logits; agreements are of the likeliest token."""

    weights: str
    batch: int
    tokens: int
    top1_agreement: float
    mean_kl: float  # nats a token, of this format from float32
    logits_error: float  # root of the mean square, in parts of float32's own
    bits_per_character: float
    reference_bits_per_character: float
    alone_agreement: float | None  # None where batches were left out
    alone_difference: float | None
    strangers_difference: float | None


def score(folder: Path, weights: str, device: str, eos_token_id: int, texts: Seq[Text]) -> Scores:
    """Read every text with both; texts longer than the context count nowhere. Raises CheckpointError.

    FP16 on a CPU is read alone only: nobody serves in it there, and batches would take minutes.
    """
    share_cores()
    import torch

    from model_service.engine.forward import TorchForward
    from model_service.engine.loading import forward_for
    from model_service.models.loading import open_checkpoint

    opened = open_checkpoint(str(folder))
    shape = opened.shape
    plain = TorchForward(opened.read("float32", device), SLOTS)
    examples = [e for e in _encoded(opened.tokenizer, eos_token_id, texts) if e.fits(shape.n_positions)]
    with torch.inference_mode():
        sums = _Sums()
        forward = forward_for(opened, weights, device, SLOTS)
        for start in range(0, len(examples), SLOTS):
            part = examples[start : start + SLOTS]
            sums.add(_logits(plain, part), _logits(forward, part), [t for e in part for t in e.completion_ids])
        del plain, forward
        independence: tuple[float | None, float | None, float | None] = (None, None, None)
        if (weights, device) != ("float16", "cpu"):
            independence = _independence(forward_for(opened, weights, device, BATCH), shape.vocab_size)
    characters = sum(e.characters for e in examples)
    return Scores(
        weights,
        BATCH,
        sums.tokens,
        sums.same / sums.tokens,
        sums.kl / sums.tokens,
        math.sqrt(sums.squared_error / sums.squares),
        sums.nats / math.log(2) / characters,
        sums.reference_nats / math.log(2) / characters,
        *independence,
    )


@dataclass(frozen=True, slots=True)
class _Example:
    prompt_ids: list[int]
    completion_ids: list[int]
    characters: int

    def fits(self, context_len: int) -> bool:
        return len(self.prompt_ids) + len(self.completion_ids) <= context_len


def _encoded(tokenizer: "Tokenizer", eos_token_id: int, texts: Seq[Text]) -> list[_Example]:
    """Encode prompts and completions apart, as training does; the end of the text is part of each."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return [_Example(ids(t.prompt) or [eos_token_id], [*ids(t.completion), eos_token_id], t.characters) for t in texts]


def _logits(forward: "Forward", examples: Seq[_Example]) -> "Tensor":
    """Return (N, V) float32: for each token of a completion, the logits it is drawn from."""
    import torch

    from model_service.engine.scheduler import Chunk

    chunks: list[Chunk] = []
    wanted: list[int] = []  # rows of the hidden states
    row = 0
    for slot, example in enumerate(examples):
        sequence = _sequence(example.prompt_ids + example.completion_ids[:-1], slot)
        chunks.append(Chunk(sequence, 0, len(sequence.token_ids)))
        wanted += range(row + len(example.prompt_ids) - 1, row + len(sequence.token_ids))
        row += len(sequence.token_ids)
    assert all(chunk.end > 1 for chunk in chunks), "Forward wants single tokens first; a text and its end are two"
    return forward.logits(forward.hidden(chunks)[torch.tensor(wanted)])


def _sequence(token_ids: list[int], slot: int) -> "Sequence":
    from model_service.engine.sequence import SamplingParams, Sequence

    sequence = Sequence(slot, token_ids, SamplingParams(), seed=0)
    sequence.slot = slot
    return sequence


class _Sums:
    """What is added up over all tokens."""

    def __init__(self) -> None:
        self.tokens = self.same = 0
        self.kl = self.nats = self.reference_nats = self.squared_error = self.squares = 0.0

    def add(self, reference: "Tensor", logits: "Tensor", token_ids: list[int]) -> None:
        """Add tokens with the logits (N, V) they are drawn from, in both number formats."""
        import torch

        drawn = torch.tensor(token_ids, device=logits.device)[:, None]
        ours, plain = logits.double().log_softmax(dim=-1), reference.double().log_softmax(dim=-1)
        self.tokens += len(token_ids)
        self.squared_error += float((logits - reference).double().square().sum())
        self.squares += float(reference.double().square().sum())
        self.same += int((ours.argmax(dim=-1) == plain.argmax(dim=-1)).sum())
        self.kl += float((plain.exp() * (plain - ours)).sum())
        self.nats -= float(ours.gather(-1, drawn).sum())
        self.reference_nats -= float(plain.gather(-1, drawn).sum())


def _independence(forward: "Forward", vocab_size: int) -> tuple[float, float, float]:
    """Return: agreement of a prompt alone and in a batch, their largest difference, that between two batches."""
    import torch

    alone_rows, batch_rows, other_rows = [], [], []
    for number in range(PROMPTS):
        mine = Task(1, PROMPT_LEN + STEPS, 0, seed=number).prompts(vocab_size)
        strangers = [Task(BATCH - 1, PROMPT_LEN + STEPS, 0, seed=s).prompts(vocab_size) for s in (100, 200)]
        place = number * (BATCH - 1) // max(1, PROMPTS - 1)
        alone_rows.append(_decoded(forward, mine, 0))
        batch_rows.append(_decoded(forward, strangers[0][:place] + mine + strangers[0][place:], place))
        other_rows.append(_decoded(forward, strangers[1][:place] + mine + strangers[1][place:], place))
    alone, batch, other = torch.cat(alone_rows), torch.cat(batch_rows), torch.cat(other_rows)
    agreement = float((alone.argmax(dim=-1) == batch.argmax(dim=-1)).double().mean())
    return agreement, float((alone - batch).abs().max()), float((batch - other).abs().max())


def _decoded(forward: "Forward", texts: list[list[int]], place: int) -> "Tensor":
    """Read prompts, then step through what follows them; returns (STEPS + 1, V) logits of the one at `place`."""
    import torch

    from model_service.engine.scheduler import Chunk

    sequences = [_sequence(ids, slot) for slot, ids in enumerate(texts)]
    last = PROMPT_LEN * (place + 1) - 1
    hidden = forward.hidden([Chunk(s, 0, PROMPT_LEN) for s in sequences])
    rows = [forward.logits(hidden[last : last + 1]).clone()]  # the next call may write to the same memory
    for position in range(PROMPT_LEN, PROMPT_LEN + STEPS):
        hidden = forward.hidden([Chunk(s, position, position + 1) for s in sequences])
        rows.append(forward.logits(hidden)[place : place + 1].clone())
    return torch.cat(rows)
