"""Writes the model card of `jokes-mini`: what it is, what it was trained on, figures, samples, limits."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

SAMPLING = {"temperature": 0.8, "top_p": 0.95}

CARD = """\
---
language: en
pipeline_tag: text-generation
---
# jokes-mini

A GPT-2 of {parameters:,} parameters ({size_mb:.1f} MB in FP16) that tells short jokes, made for Punchline as the
model that needs no download. {n_layer} layers of width {n_embd}, a byte-level BPE of {vocab_size:,} tokens, a context
of {n_positions} tokens.

| figure | |
|---|--:|
| bits per character on {dev_jokes:,} held-out jokes | {bits_per_character:.3f} |
| jokes it was trained on | {jokes:,} |
| steps of {tokens_per_step:,} tokens, and passes over the jokes | {steps:,} and {epochs:.1f} |

Measured on the shipped FP16 file, computed in float32. A joke's bits are those of its text and its end after `JOKE:`;
its characters are those of its text alone.

## Prompts
- `JOKE:` tells a joke.
- `JOKE about cats:` tells one that holds the word, or tries to.
- Any other text is continued.

## Data
Short English jokes of 10 to 400 characters, deduplicated, with slurs and adult content filtered: rJokes (Weller and
Seppi, Reddit), short-jokes-dataset (scraped from several sites), CleanComedy gold (CC-BY-4.0), official_joke_api (MIT),
pyjokes (BSD), JokeAPI (MIT). The data are not part of this project; only these weights are.

## Made by
`punchline train joke --compile` from seed {seed}, on two CPU cores: Muon on the blocks' matrices, AdamW on the rest,
jokes packed several to a row with attention restarted per joke.

## Samples
Seeds 1 to {num_samples}, temperature {temperature}, top_p {top_p}; none was chosen, and {num_filtered} that held a
word of a list of slurs and adult words were left out.

{samples}

## Limits
It has the shape and the words of jokes more often than their point. It knows nothing of the world, speaks English
only, and repeats the stereotypes of jokes people post; it can offend although its data were filtered. Do not use it
for advice.
"""


def draw_samples(model: GPT2LMHeadModel, tokenizer: Tokenizer, count: int) -> list[str]:
    """Tell one joke per seed, 1 to `count`."""
    prompt = torch.tensor([tokenizer.encode("JOKE:").ids])
    jokes = []
    for seed in range(1, count + 1):
        torch.manual_seed(seed)
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, max_new_tokens=120, **SAMPLING
        )
        jokes.append(" ".join(tokenizer.decode(out[0, prompt.shape[1] :].tolist()).split()))
    return jokes


def write_card(folder: Path, figures: Mapping[str, object], samples: list[str], blocked: re.Pattern[str]) -> None:
    """Write README.md and figures.json beside the weights."""
    shown = [joke for joke in samples if not blocked.search(joke)]
    text = CARD.format(
        **figures,
        **SAMPLING,
        size_mb=(folder / "model.safetensors").stat().st_size / 1e6,
        num_filtered=len(samples) - len(shown),
        samples="\n".join(f"- {joke}" for joke in shown),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
