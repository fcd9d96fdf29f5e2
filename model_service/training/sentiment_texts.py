"""What `sentiment-mini` learns from: labelled texts, its tokenizer, and packed rows with targets.

    sst2  reviews   negative or positive: the loss never looks at neutral
    tweets  chat    negative, neutral or positive
    row             | a a a \\n | b b \\n | c c c c \\n | pad |
    target          | . . . t_a | . . t_b | . . . . t_c | .  |

The tokenizer's own normaliser makes chat look like the training texts (case, links, mentions, emoji) and
ends each text with a line feed, which no text has inside and at which the classifier reads its answer.
So whoever encodes with `tokenizer.json` gets all of it without any code.
"""

import csv
import gzip
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from model_service.training.dataset import Batch, Encoded, collate, pack

EOS, EOS_ID = "<|endoftext|>", 0  # pads batches; it never stands in a text
LABELS = ("negative", "neutral", "positive")
BINARY = {"0": "negative", "1": "positive"}
CHAT = Path(__file__).with_name("sentiment_chat.tsv")  # written for this project, like the next
CHAT_DEV = Path(__file__).with_name("sentiment_chat_dev.tsv")  # none of its lines is in CHAT

HAPPY = "😀😃😄😁😆😊🙂😂🤣😍🥰😎🤩😺🎉🥳👍👏🙌🙏✨🔥💯😻😋🤗☺😌😇"
SAD = "😞😟😠😡🤬😢😭😩😫😒😔😕🙁☹😤😖😣😿👎💔🤮🤢😨😱😥😰🖕🙄😑"
HEART = "❤💖💕💗💓💞💘💜💙💚🧡💛🤍😘"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text. `target` holds the probabilities of LABELS; `binary` rows say nothing about neutral."""

    text: str
    target: tuple[float, float, float]
    binary: bool

    @property
    def label(self) -> str:
        """The likelier label; for texts that were read, the only one."""
        return LABELS[max(range(len(LABELS)), key=self.target.__getitem__)]


@dataclass(frozen=True, slots=True)
class EncodedLabelled(Encoded):
    """Token ids with what to learn at the last one."""

    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    binary: bool = False


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Packed rows. target: (B, T, 3) float32, all zero except at the end of a text; binary: (B, T) bool."""

    tokens: Batch
    target: Tensor
    binary: Tensor


def one_hot(label: str) -> tuple[float, float, float]:
    """Return the probabilities of LABELS for a text that is certainly `label`."""
    if label not in LABELS:
        raise ValueError(f"unknown label {label!r}; it must be one of {', '.join(LABELS)}")
    return (float(label == LABELS[0]), float(label == LABELS[1]), float(label == LABELS[2]))


def read_labelled(path: Path) -> list[Labelled]:
    """Read `label[, …], text` from a TSV with a heading, gzipped or not; labels 0 and 1 mean binary rows."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = csv.DictReader(raw.decode("utf-8").split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Labelled(" ".join(row["text"].split()), one_hot(BINARY.get(row["label"], row["label"])), row["label"] in BINARY)
        for row in rows
    ]


def _normaliser() -> normalizers.Normalizer:
    def replace(pattern: str, content: str) -> normalizers.Normalizer:
        return normalizers.Replace(Regex(pattern), content)

    return normalizers.Sequence(
        [
            normalizers.NFC(),
            replace(r"https?://\S+", " http "),
            replace(r"<[@#][!&]?\d+>|@\w+", " @user "),  # Discord's mentions, and names
            replace(r"<a?:(?=\w+:\d+>)|(?<=\w):\d{15,}>", " "),  # <:wave:123> keeps its name
            replace(f"[{HAPPY}]", " :) "),  # the training tweets are older than emoji
            replace(f"[{SAD}]", " :( "),
            replace(f"[{HEART}]", " <3 "),
            replace("[\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff]", ""),  # emoji variants and skin tones
            replace("[‘’]", "'"),
            replace("[“”]", '"'),
            normalizers.Lowercase(),
            replace(r"(\S)(?=\1\1)", ""),  # "yessssss!!!!" reads "yess!!"
            replace(r"\s+", " "),
            normalizers.Strip(),
            replace(r"\z", "\n"),
        ]
    )


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE that lower-cases, tidies chat and ends each text with a line feed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normaliser()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[EOS],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer


def joined(texts: Sequence[Labelled], rng: random.Random, fraction: float) -> Iterator[Labelled]:
    """Pass the texts through, joining some neighbours of one kind; a joined text has their mean label."""
    waiting: dict[bool, Labelled] = {}
    for text in texts:
        first = waiting.pop(text.binary, None)
        if first is None and rng.random() < fraction:
            waiting[text.binary] = text
            continue
        if first is None:
            yield text
            continue
        a, b = first.target, text.target
        yield Labelled(
            f"{first.text}{rng.choice([' ', ' ', '. ', ', '])}{text.text}",
            ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2),
            text.binary,
        )
    yield from waiting.values()


def encode_labelled(
    texts: Sequence[Labelled], tokenizer: Tokenizer, rng: random.Random, *, word_drop: float, n_positions: int
) -> list[EncodedLabelled]:
    """Tokenize, leave out some tokens, and start a fifth of the texts at a later position."""
    encoded = []
    for text, encoding in zip(texts, tokenizer.encode_batch([t.text for t in texts]), strict=True):
        *ids, end = encoding.ids[:n_positions]
        kept = [i for i in ids if rng.random() >= word_drop] or ids
        room = n_positions - len(kept) - 1
        offset = rng.randint(0, room) if rng.random() < 0.2 else 0
        encoded.append(EncodedLabelled([*kept, end], 0, offset, text.target, text.binary))
    return encoded


def labelled_batches(encoded: Sequence[EncodedLabelled], *, row_len: int, rows_per_batch: int) -> list[LabelledBatch]:
    """Pack texts into full batches of one shape; what is left over and too long is left out."""
    rows, _ = pack(encoded, row_len)
    made = []
    for start in range(0, len(rows) - rows_per_batch + 1, rows_per_batch):
        some = rows[start : start + rows_per_batch]
        tokens = collate(some, row_len, EOS_ID)
        target = torch.zeros(rows_per_batch, row_len, len(LABELS))
        binary = torch.zeros(rows_per_batch, row_len, dtype=torch.bool)
        for b, row in enumerate(some):
            end = -1
            for text in row:
                assert isinstance(text, EncodedLabelled)
                end += len(text.input_ids)
                target[b, end] = torch.tensor(text.target)
                binary[b, end] = text.binary
        made.append(LabelledBatch(tokens, target, binary))
    return made
