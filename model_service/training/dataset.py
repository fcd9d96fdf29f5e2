"""Turns texts into packed rows: several examples to a row, none of which sees its neighbour.

    row       | JOKE: a a a <eot> | JOKE: b b <eot> | JOKE: c c c c <eot> | pad |
    segment   | 1 1 1 1 1 1 1     | 2 2 2 2 2       | 3 3 3 3 3 3 3 3     | 0   |
    position  | 0 1 2 3 4 5 6     | 0 1 2 3 4       | 0 1 2 3 4 5 6 7     | 0   |
    labels    | . . a a a <eot>   | . . b b <eot>   | . . c c c c <eot>   | .   |    (. is -100)

Attention is causal inside a segment and absent between segments, so a packed example has the
loss it has alone. Examples longer than a row are returned beside the rows, never cut silently.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

IGNORE = -100  # what torch's cross-entropy leaves out
OPEN_ROWS = 32  # rows a packer keeps open: more fill rows better and take longer to search


@dataclass(frozen=True, slots=True)
class Example:
    """One training text. The loss is taken on the completion only; both parts are plain text."""

    prompt: str
    completion: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example. The first `num_prompt` ids carry no loss; positions start at `offset`."""

    input_ids: list[int]
    num_prompt: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows, ready for a model. Every tensor is (B, T) int64."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    segment_ids: Tensor

    def attention_mask(self) -> Tensor:
        """Return (B, 1, T, T) bool, true where a query may look: its own segment, not ahead."""
        seg = self.segment_ids
        same = seg[:, None, :, None] == seg[:, None, None, :]
        return same & torch.ones(seg.shape[1], seg.shape[1], dtype=torch.bool, device=seg.device).tril()

    def to(self, device: torch.device) -> "Batch":
        """Return the same rows on `device`."""
        return Batch(
            *(
                t.to(device, non_blocking=True)
                for t in (self.input_ids, self.labels, self.position_ids, self.segment_ids)
            )
        )


def encode(examples: Iterable[Example], tokenizer: Tokenizer, eos_token_id: int) -> list[Encoded]:
    """Tokenize examples and append the end-of-text token to each."""
    examples = list(examples)
    prompts = tokenizer.encode_batch([e.prompt for e in examples], add_special_tokens=False)
    completions = tokenizer.encode_batch([e.completion for e in examples], add_special_tokens=False)
    return [Encoded([*p.ids, *c.ids, eos_token_id], len(p.ids)) for p, c in zip(prompts, completions, strict=True)]


def pack(encoded: Iterable[Encoded], row_len: int) -> tuple[list[list[Encoded]], list[Encoded]]:
    """Fill rows of `row_len` tokens, best fit among the open ones; return (rows, too_long).

    The order of the rows follows the order of the examples, so a shuffle before is a shuffle after.
    """
    rows: list[list[Encoded]] = []
    open_rows: list[tuple[int, list[Encoded]]] = []  # (free tokens, row)
    too_long: list[Encoded] = []
    for example in encoded:
        size = len(example.input_ids)
        if size > row_len:
            too_long.append(example)
            continue
        best = min(
            (i for i, (free, _) in enumerate(open_rows) if free >= size), key=lambda i: open_rows[i][0], default=None
        )
        if best is None:
            if len(open_rows) == OPEN_ROWS:
                fullest = min(range(OPEN_ROWS), key=lambda i: open_rows[i][0])
                rows.append(open_rows.pop(fullest)[1])
            open_rows.append((row_len - size, [example]))
        else:
            free, row = open_rows[best]
            row.append(example)
            open_rows[best] = (free - size, row)
    rows.extend(row for _, row in open_rows)
    return rows, too_long


def spread(encoded: Sequence[Encoded], row_len: int) -> list[list[Encoded]]:
    """Lay the examples of a step out in as few rows as hold them, as even as they go: rows are as wide as the widest.

    None may be longer than `row_len`.
    """
    longest_first = sorted(encoded, key=lambda example: -len(example.input_ids))
    num_rows = max(1, -(-sum(len(example.input_ids) for example in encoded) // row_len))
    while True:
        rows: list[list[Encoded]] = [[] for _ in range(num_rows)]
        sizes = [0] * num_rows
        for example in longest_first:
            emptiest = sizes.index(min(sizes))
            rows[emptiest].append(example)
            sizes[emptiest] += len(example.input_ids)
        if max(sizes) <= row_len:
            return rows
        num_rows += 1


def collate(rows: Sequence[list[Encoded]], row_len: int, pad_token_id: int) -> Batch:
    """Lay packed rows out as tensors of (len(rows), row_len)."""
    shape = (len(rows), row_len)
    input_ids = torch.full(shape, pad_token_id)
    labels = torch.full(shape, IGNORE)
    position_ids, segment_ids = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for b, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            end = start + len(example.input_ids)
            ids = torch.tensor(example.input_ids)
            input_ids[b, start:end] = ids
            # an example without a prompt has no token to predict its first one from
            first = max(example.num_prompt, 1)
            labels[b, start + first : end] = ids[first:]
            position_ids[b, start:end] = torch.arange(example.offset, example.offset + len(ids))
            segment_ids[b, start:end] = segment
            start = end
    return Batch(input_ids, labels, position_ids, segment_ids)


def batches(
    encoded: Sequence[Encoded], *, row_len: int, rows_per_batch: int, pad_token_id: int, seed: int | None = None
) -> list[Batch]:
    """Pack a whole epoch. A seed shuffles the examples first; the last batch may hold fewer rows."""
    order = list(encoded)
    if seed is not None:
        random.Random(seed).shuffle(order)
    rows, _ = pack(order, row_len)
    return [collate(rows[i : i + rows_per_batch], row_len, pad_token_id) for i in range(0, len(rows), rows_per_batch)]
