"""Measures a sentiment classifier: probabilities of texts, accuracy, F1."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2ForSequenceClassification

from model_service.training.sentiment_texts import EOS_ID, LABELS, Labelled


@torch.no_grad()
def probabilities(model: GPT2ForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Return the probabilities of LABELS: (len(texts), 3) float32. Texts of like length share a batch."""
    model.eval()
    encoded = [e.ids for e in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    probs = torch.empty(len(encoded), len(LABELS))
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        width = len(encoded[some[-1]])
        ids = torch.tensor([encoded[i] + [EOS_ID] * (width - len(encoded[i])) for i in some])
        probs[some] = model(input_ids=ids, attention_mask=ids != EOS_ID).logits.float().softmax(-1)
    return probs


def accuracy(model: GPT2ForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[Labelled]) -> float:
    """Return the percentage of texts whose likeliest label is right; binary texts choose between two."""
    probs = probabilities(model, tokenizer, [t.text for t in texts])
    probs[torch.tensor([t.binary for t in texts]), LABELS.index("neutral")] = 0.0
    right = [LABELS[i] == t.label for i, t in zip(probs.argmax(-1).tolist(), texts, strict=True)]
    return 100 * sum(right) / len(right)


def macro_f1(model: GPT2ForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[Labelled]) -> float:
    """Return the mean over LABELS of each label's F1, in percent."""
    said = probabilities(model, tokenizer, [t.text for t in texts]).argmax(-1)
    truth = torch.tensor([LABELS.index(t.label) for t in texts])
    f1 = [
        2 * int(((said == i) & (truth == i)).sum()) / max(1, int((said == i).sum() + (truth == i).sum()))
        for i in range(len(LABELS))
    ]
    return 100 * sum(f1) / len(f1)
