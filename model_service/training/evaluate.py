"""Measures a model on jokes it has not seen, on general texts, and on what it says itself."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from model_service.training.dataset import Encoded, Example, collate, encode, pack
from model_service.training.examples import normalise
from model_service.training.gate import Floats
from model_service.training.loss import nats_per_example

GENERAL = Path(__file__).with_name("general.jsonl")
ROWS_PER_BATCH = 8
SAMPLES, SAMPLE_TOKENS, SAMPLE_TEMPERATURE, SAMPLE_TOP_P = 32, 64, 0.8, 0.95
MAX_COMMON_RUN = 0.6  # a sample is a copy when a longer part of it stands in one training joke
MIN_SAMPLE_LETTERS = 16  # shorter samples ("Why?") are nobody's joke


@dataclass(frozen=True, slots=True)
class Losses:
    """Per example, in the order given: nats summed over the labelled tokens, and how many those are."""

    nats: Floats
    tokens: Floats

    @property
    def per_token(self) -> float:
        """The mean over all labelled tokens."""
        return float(self.nats.sum() / self.tokens.sum())


@torch.no_grad()
def losses(
    model: PreTrainedModel, encoded: Sequence[Encoded], row_len: int, *, between: Callable[[], None] = lambda: None
) -> Losses:
    """Measure every example, packed. None may be longer than `row_len`. `between` is called before each batch."""
    model.eval()
    rows, too_long = pack(encoded, row_len)
    assert not too_long
    place = {id(example): i for i, example in enumerate(encoded)}
    nats, tokens = np.zeros(len(encoded)), np.zeros(len(encoded))
    for start in range(0, len(rows), ROWS_PER_BATCH):
        between()
        part = rows[start : start + ROWS_PER_BATCH]
        batch = collate(part, row_len, 0).to(model.device)
        sums, counts = nats_per_example(model, batch, max(map(len, part)))
        for row, row_sums, row_counts in zip(part, sums.tolist(), counts.tolist(), strict=True):
            for example, total, count in zip(row, row_sums, row_counts, strict=False):
                nats[place[id(example)]], tokens[place[id(example)]] = total, count
    return Losses(nats, tokens)


def general_texts(tokenizer: Tokenizer, eos_token_id: int, row_len: int, path: Path = GENERAL) -> list[Encoded]:
    """Read the general held-out texts; those longer than a row stay out for every model alike."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    encoded = encode([Example("", line["text"], line["id"]) for line in lines], tokenizer, eos_token_id)
    return [e for e in encoded if len(e.input_ids) <= row_len]


@torch.no_grad()
def sample(
    model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, *, eos_token_id: int, seed: int, n: int = SAMPLES
) -> list[str]:
    """Draw `n` completions of `prompt`, without their end-of-text tokens. The seed decides them."""
    model.eval()
    torch.manual_seed(seed)
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [eos_token_id]
    input_ids = torch.tensor([prompt_ids] * n, device=model.device)
    made = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=min(SAMPLE_TOKENS, model.config.max_position_embeddings - len(prompt_ids)),
        do_sample=True,
        temperature=SAMPLE_TEMPERATURE,
        top_p=SAMPLE_TOP_P,
        top_k=0,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )
    return tokenizer.decode_batch(made[:, len(prompt_ids) :].tolist(), skip_special_tokens=True)


def commonest_prompt(examples: Sequence[Example]) -> str:
    """Return the prompt that most examples begin with, to sample from."""
    return Counter(e.prompt for e in examples).most_common(1)[0][0]


def is_copy(text: str, library: str) -> bool:
    """Say whether one run of over 60 % of `text` stands in `library` (normalised jokes, a line each)."""
    letters = normalise(text)
    if len(letters) < MIN_SAMPLE_LETTERS:
        return False
    run = int(len(letters) * MAX_COMMON_RUN) + 1
    return any(letters[i : i + run] in library for i in range(len(letters) - run + 1))


def verbatim_rate(samples: Sequence[str], jokes: Sequence[str]) -> float:
    """Return the share of samples that are mostly copied from one of the jokes."""
    library = "\n".join(normalise(joke) for joke in jokes)
    return sum(is_copy(text, library) for text in samples) / len(samples)


def finite(tensors: dict[str, Tensor]) -> bool:
    """Say whether every weight is a finite number."""
    return all(bool(torch.isfinite(t).all()) for t in tensors.values())
