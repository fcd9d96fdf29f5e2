"""Writes the model card of `sentiment-mini`: what it is, what it was trained on, figures, answers, limits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from model_service.training.sentiment_texts import LABELS

SHOWN = (
    "I love this",
    "this is terrible",
    "ok",
    "the meeting is at 3pm",
    "not bad at all",
    "not good at all",
    "I don't like it",
    "THIS IS AMAZING",
    "THIS IS AWFUL!!!",
    "that's hilarious 😂",
    "my cat is sick 😢",
    "🎉",
    "👎",
    "the server restarts at noon",
    "what time is it?",
    "great, it crashed again",
)

CARD = """\
---
language: en
pipeline_tag: text-classification
---
# sentiment-mini

A GPT-2 of {parameters:,} parameters ({size_mb:.1f} MB in FP16) that calls a text negative (0), neutral (1) or
positive (2), made for Punchline as the model that needs no download. {n_layer} layers of width {n_embd}, a byte-level
BPE of {vocab_size:,} tokens, a context of {n_positions} tokens.

| figure | % |
|---|--:|
| accuracy, SST-2 development set | {sst2_dev_accuracy:.2f} |
| accuracy, held-out tweets | {tweets_dev_accuracy:.2f} |
| mean F1 over the three labels, held-out tweets | {tweets_dev_macro_f1:.2f} |
| accuracy, held-out chat lines | {chat_dev_accuracy:.2f} |

The {sst2_dev_texts} SST-2 sentences are positive or negative, and the likelier of the two counts. The
{tweets_dev_texts} tweets have three labels; always "positive" would reach {tweets_dev_majority:.2f} %. The
{chat_dev_texts} chat lines were written for this project and not trained on.

Measured on the shipped FP16 file, computed in float32. The settings of the training were chosen by looking at these
sets, so fresh texts may do a little worse.

## Use
`transformers` loads the folder as it is (`AutoModelForSequenceClassification`, `AutoTokenizer`). The tokenizer's own
normaliser lower-cases, shortens "yessss" to "yess", turns common emoji into `:)`, `:(` and `<3`, hides links and
mentions, and ends each text with a line feed, where the classifier reads its answer; no code is needed for it.

## Data
- Stanford Sentiment Treebank (SST-2): {sst2_texts:,} phrases of film reviews, positive or negative; no licence stated.
- The tweets of vaderSentiment (MIT): {tweets_texts:,}, three labels.
- Sentences of Amazon, IMDb and Yelp reviews (Kotzias et al., 2015): {reviews_texts:,}, positive or negative.
- {chat_texts} chat lines written for this project (`model_service/training/sentiment_chat.tsv`), three labels.
- Short jokes, without labels, for the token vectors at the start; see the card of jokes-mini.

Texts that are only ever positive or negative teach nothing about neutral: their loss leaves that label out. The data,
the chat lines aside, are not part of this project; only these weights are.

## Made by
`punchline train sentiment --compile` from seed {seed}, on two CPU cores: {steps:,} steps. Token vectors start
from co-occurrence in all the texts (positive mutual information, reduced by SVD), the rest from nothing. The
share of positive phrases in the training texts is taken out of the answers at the end.

## Answers
{answers}

## Limits
It weighs words and short phrases; irony ("great, it crashed again"), understatement ("not bad at all"), jokes at
somebody's expense and long arguments escape it, and a plain fact with a sad word in it may read as negative. English
only. It was trained on film reviews and on tweets of 2010: do not use it to judge people, to moderate on its own, or
for anything that matters.
"""


def answers_table(texts: Sequence[str], probs: Tensor) -> str:
    """Return a Markdown table of texts and their probabilities in percent. probs: (len(texts), 3)."""
    lines = [f"| text | {' | '.join(LABELS)} |", "|---|--:|--:|--:|"]
    for text, row in zip(texts, probs.tolist(), strict=True):
        shown = [f"**{100 * p:.0f}**" if p == max(row) else f"{100 * p:.0f}" for p in row]
        lines.append(f"| {text} | {' | '.join(shown)} |")
    return "\n".join(lines)


def write_card(folder: Path, figures: Mapping[str, object], answers: str) -> None:
    """Write README.md and figures.json beside the weights."""
    size_mb = (folder / "model.safetensors").stat().st_size / 1e6
    (folder / "README.md").write_text(CARD.format(**figures, size_mb=size_mb, answers=answers), encoding="utf-8")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
