"""Measures a model on jokes it has not seen, on general texts, and on what it says itself."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
STEPS_BETWEEN = 16  # tokens of all samples between two calls of `between`
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
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    row_len: int,
    *,
    rows_per_batch: int = ROWS_PER_BATCH,
    between: Callable[[], None] = lambda: None,
) -> Losses:
    """Measure every example, packed. None may be longer than `row_len`. `between` is called before each batch."""
    model.eval()
    rows, too_long = pack(encoded, row_len)
    assert not too_long
    place = {id(example): i for i, example in enumerate(encoded)}
    nats, tokens = np.zeros(len(encoded)), np.zeros(len(encoded))
    for start in range(0, len(rows), rows_per_batch):
        between()
        part = rows[start : start + rows_per_batch]
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
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    eos_token_id: int,
    seed: int,
    n: int = SAMPLES,
    between: Callable[[], None] = lambda: None,
) -> list[str]:
    """Draw `n` completions of `prompt`, without their end-of-text tokens.

    The i-th is drawn from seed + i alone, whatever its neighbours are, so that two models can be heard with the same
    luck. `between` is called now and then.
    """
    model.eval()
    input_ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids or [eos_token_id]] * n)
    length = min(SAMPLE_TOKENS, model.config.max_position_embeddings - input_ids.shape[1])
    draws = torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(seed + i)) for i in range(n)])
    made = torch.full((n, length), eos_token_id)  # (n, T)
    going = torch.ones(n, dtype=torch.bool)
    cache = None
    for at in range(length):
        if at % STEPS_BETWEEN == 0:
            between()
        out = model(input_ids=input_ids.to(model.device), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        drawn = draw(out.logits[:, -1].float().cpu(), draws[:, at])
        made[going, at] = drawn[going]
        going &= drawn != eos_token_id
        if not going.any():
            break
        input_ids = made[:, at : at + 1]
    return tokenizer.decode_batch(made.tolist(), skip_special_tokens=True)


def draw(logits: Tensor, luck: Tensor) -> Tensor:
    """Take the token at which the likeliest ones, added up, pass a share of what top-p keeps.

    logits: (B, V) float32. luck: (B,) in [0, 1), that share. Returns (B,) int64.
    """
    probs, ids = (logits / SAMPLE_TEMPERATURE).softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(-1) - probs  # (B, V) what the likelier ones take
    kept = (probs * (before < SAMPLE_TOP_P)).cumsum(-1)
    places = (kept <= luck[:, None] * kept[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(-1, places.clamp(max=ids.shape[-1] - 1)).squeeze(-1)


def commonest_prompt(examples: Sequence[Example]) -> str:
    """Return the prompt that most examples begin with, to sample from."""
    return Counter(e.prompt for e in examples).most_common(1)[0][0]


def is_copy(text: str, library: str) -> bool:
    """Say whether one run of over 60 % of `text` stands in `library` (normalised jokes, a line each)."""
    letters = normalise(text)
    if len(letters) < MIN_SAMPLE_LETTERS:
        return False
    run = math.floor(len(letters) * MAX_COMMON_RUN + 1e-9) + 1
    if letters[len(letters) - run : run] not in library:
        return False  # every such run holds the text's middle, and to look for that alone is quick
    return any(letters[i : i + run] in library for i in range(len(letters) - run + 1))


def verbatim_rate(samples: Sequence[str], jokes: Sequence[str]) -> float:
    """Return the share of samples that are mostly copied from one of the jokes."""
    library = "\n".join(normalise(joke) for joke in jokes)
    return sum(is_copy(text, library) for text in samples) / len(samples)


def distinct_2(texts: Sequence[str]) -> float:
    """Return how many of all pairs of neighbouring words are different ones: near 0, all texts say the same."""
    words = [re.findall(r"\w+", text.casefold()) for text in texts]
    pairs = [pair for each in words for pair in pairwise(each)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def num_characters(encoded: Sequence[Encoded], tokenizer: Tokenizer) -> int:
    """Count the characters of the labelled tokens; the end of a text has none."""
    labelled = [e.input_ids[max(e.num_prompt, 1) :] for e in encoded]
    return sum(map(len, tokenizer.decode_batch(labelled, skip_special_tokens=True)))


def num_labelled(encoded: Sequence[Encoded]) -> int:
    """Count the tokens a loss is taken on."""
    return sum(len(e.input_ids) - max(e.num_prompt, 1) for e in encoded)


def bits_per_character(nats: float, characters: int) -> float:
    """Turn a loss summed over texts into one that models with different tokenizers share."""
    return nats / math.log(2) / characters


def finite(tensors: dict[str, Tensor]) -> bool:
    """Say whether every weight is a finite number."""
    return all(bool(torch.isfinite(t).all()) for t in tensors.values())
