"""Trains the embedded `sentiment-mini` from nothing: tokenizer, weights, figures, model card.

    jokes + labelled texts ─ BPE ─ token vectors ─┐
    sst2, reviews, tweets, chat ─ packed rows ────┴ GPT-2, answer at the last token ─ safetensors

The token vectors start from co-occurrence in all texts, so the model knows likenesses of words its labels
hardly show. Muon takes the matrices of the blocks, AdamW the rest. The result depends on the seed, the
number of threads, `compile` and the data alone.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from model_service.training.joke_texts import read_jokes, word_filter
from model_service.training.muon import Muon
from model_service.training.sentiment_card import SHOWN, answers_table, write_card
from model_service.training.sentiment_figures import accuracy, macro_f1, probabilities
from model_service.training.sentiment_texts import (
    CHAT,
    CHAT_DEV,
    EOS,
    EOS_ID,
    LABELS,
    Labelled,
    LabelledBatch,
    encode_labelled,
    joined,
    labelled_batches,
    read_labelled,
    train_tokenizer,
)
from model_service.training.word_vectors import token_vectors

log = logging.getLogger(__name__)

SETS = ("sst2", "reviews", "tweets", "chat", "sst2_dev", "tweets_dev", "chat_dev")


@dataclass(frozen=True, slots=True)
class SentimentConfig:
    """Everything the result depends on, data aside."""

    seed: int = 11
    vocab_size: int = 8192
    n_embd: int = 128
    n_layer: int = 2
    n_head: int = 4
    n_positions: int = 512
    vector_std: float = 0.1  # of the token vectors at the start
    epochs: int = 4  # passes over sst2, with the others mixed in
    tweet_repeats: int = 4  # per pass
    review_repeats: int = 2
    chat_repeats: int = 10
    row_len: int = 128
    rows_per_batch: int = 16
    dropout: float = 0.1
    word_drop: float = 0.1
    join_fraction: float = 0.1
    label_smoothing: float = 0.1
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.1
    warmup_steps: int = 40


class SentimentData:
    """The labelled texts of the data folder and of this package, and the texts without labels."""

    def __init__(self, folder: Path) -> None:
        self.sst2 = read_labelled(folder / "sst2_train.tsv.gz")
        self.reviews = read_labelled(folder / "reviews_train.tsv.gz")
        self.tweets = read_labelled(folder / "tweets_train.tsv.gz")
        self.chat = read_labelled(CHAT)
        self.chat_dev = read_labelled(CHAT_DEV)
        self.sst2_dev = read_labelled(folder / "sst2_dev.tsv.gz")
        self.tweets_dev = read_labelled(folder / "tweets_dev.tsv.gz")
        self.jokes = read_jokes(folder / "jokes_train.csv.gz", word_filter(folder / "wordlists/ldnoobw_en.txt"))

    def labelled(self, config: SentimentConfig) -> list[Labelled]:
        """Return one pass: sst2 once, the smaller sets repeated."""
        return [
            *self.sst2,
            *self.reviews * config.review_repeats,
            *self.tweets * config.tweet_repeats,
            *self.chat * config.chat_repeats,
        ]


def make_model(config: SentimentConfig) -> GPT2ForSequenceClassification:
    """Build the classifier with random weights."""
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=0.0,
            bos_token_id=EOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=EOS_ID,
            id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
            problem_type="single_label_classification",
        )
    )


def classifier_loss(model: GPT2ForSequenceClassification, batch: LabelledBatch, smoothing: float) -> Tensor:
    """Return the cross-entropy in nats per text: () float32. Binary texts are scored without neutral."""
    tokens = batch.tokens
    hidden = model.transformer(
        input_ids=tokens.input_ids,
        position_ids=tokens.position_ids,
        attention_mask=tokens.attention_mask(),
        use_cache=False,
    ).last_hidden_state  # (B, T, D)
    scores = model.score(hidden)  # (B, T, 3)
    neutral = torch.tensor([False, True, False])
    log_probs = scores.masked_fill(batch.binary[..., None] & neutral, -1e4).log_softmax(-1)
    is_end = batch.target.sum(-1, keepdim=True)  # (B, T, 1), 1 at the last token of a text
    allowed = is_end * ~(batch.binary[..., None] & neutral)
    smooth = (1 - smoothing) * batch.target + smoothing * allowed / allowed.sum(-1, keepdim=True).clamp(min=1)
    loss: Tensor = -(smooth * log_probs).sum() / is_end.sum()
    return loss


@torch.no_grad()
def remove_prior(model: GPT2ForSequenceClassification, texts: Sequence[Labelled]) -> None:
    """Take out of the answers that one mood is commoner than the other in the binary training texts.

    In what people send neither is to be expected more. The head has no bias of its own, so the final norm's takes the
    least change that moves positive against negative by the log-odds of the training texts.
    """
    positive = sum(t.target[2] > 0.5 for t in texts if t.binary)
    negative = sum(t.target[0] > 0.5 for t in texts if t.binary)
    log_odds = math.log(positive / negative)
    shift = torch.tensor([log_odds / 2, 0.0, -log_odds / 2])
    model.transformer.ln_f.bias += torch.linalg.pinv(model.score.weight) @ shift


def measure(model: GPT2ForSequenceClassification, tokenizer: Tokenizer, data: SentimentData) -> dict[str, float]:
    """Return the held-out figures of the model card, in percent."""
    figures = {
        "sst2_dev_accuracy": accuracy(model, tokenizer, data.sst2_dev),
        "tweets_dev_accuracy": accuracy(model, tokenizer, data.tweets_dev),
        "tweets_dev_macro_f1": macro_f1(model, tokenizer, data.tweets_dev),
        "chat_dev_accuracy": accuracy(model, tokenizer, data.chat_dev),
    }
    return {name: round(value, 2) for name, value in figures.items()}


class SentimentTraining:
    """One run. `run` trains, `export` writes the folder that is shipped."""

    def __init__(self, config: SentimentConfig, data: Path, *, compile: bool) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        torch.set_flush_denormal(True)
        self.data = SentimentData(data)
        labelled = self.data.labelled(config)
        self.tokenizer = train_tokenizer([*(t.text for t in labelled), *self.data.jokes], config.vocab_size)
        self.model = make_model(config)
        self._start_from_vectors([*dict.fromkeys(t.text for t in labelled), *self.data.jokes])
        self.loss: Callable[..., Tensor] = torch.compile(classifier_loss) if compile else classifier_loss
        self.step = 0

    def _start_from_vectors(self, texts: list[str]) -> None:
        encoded = [e.ids for e in self.tokenizer.encode_batch(texts)]
        vectors = token_vectors(encoded, self.config.vocab_size, self.config.n_embd)
        with torch.no_grad():
            self.model.transformer.wte.weight.copy_(vectors * self.config.vector_std)

    def _batches(self, texts: Sequence[Labelled], epoch: int) -> list[LabelledBatch]:
        config = self.config
        rng = random.Random(f"{config.seed}-{epoch}")
        shuffled = joined(rng.sample(texts, len(texts)), rng, config.join_fraction)
        encoded = encode_labelled(
            list(shuffled), self.tokenizer, rng, word_drop=config.word_drop, n_positions=config.n_positions
        )
        made = labelled_batches(encoded, row_len=config.row_len, rows_per_batch=config.rows_per_batch)
        return rng.sample(made, len(made))

    def run(self) -> None:
        """Train `config.epochs` passes; some minutes on two cores. Logs the held-out figures now and then."""
        labelled = self.data.labelled(self.config)
        batches = [b for epoch in range(self.config.epochs) for b in self._batches(labelled, epoch)]
        optimizers = self._optimizers()
        start = time.perf_counter()
        for self.step, batch in enumerate(batches):
            self.model.train()
            loss = self.loss(self.model, batch, self.config.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            factor = min((self.step + 1) / self.config.warmup_steps, 1 - self.step / len(batches))
            for optimizer, peak in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if self.step % 50 == 0:
                speed = (time.perf_counter() - start) / (self.step + 1)
                log.info("step %d/%d loss %.4f %.2f s a step", self.step, len(batches), loss.item(), speed)
            if self.step % 200 == 199:
                log.info("held-out: %s", measure(self.model, self.tokenizer, self.data))
        remove_prior(self.model, labelled)

    def _optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and ".h." in name]
        others = [p for name, p in named if not (p.ndim == 2 and ".h." in name)]
        decay = self.config.weight_decay
        return [
            (Muon(matrices, lr=self.config.muon_lr, weight_decay=decay), self.config.muon_lr),
            (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=decay), self.config.adam_lr),
        ]

    def export(self, folder: Path) -> dict[str, object]:
        """Write FP16 safetensors, tokenizer and model card to `folder`; return the card's figures."""
        half = make_model(self.config).to(torch.float16)
        half.load_state_dict(self.model.state_dict())
        half.config.dtype = torch.float16
        half.save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer,
            eos_token=EOS,
            bos_token=EOS,
            pad_token=EOS,
            model_max_length=self.config.n_positions,
        ).save_pretrained(folder)
        shipped = half.float()
        data = self.data
        tweets = [t.label for t in data.tweets_dev]
        figures: dict[str, object] = {
            **asdict(self.config),
            **measure(shipped, self.tokenizer, data),
            "tweets_dev_majority": round(100 * tweets.count("positive") / len(tweets), 2),
            **{f"{name}_texts": len(getattr(data, name)) for name in SETS},
            "steps": self.step + 1,
            "parameters": shipped.num_parameters(),
        }
        write_card(folder, figures, answers_table(SHOWN, probabilities(shipped, self.tokenizer, SHOWN)))
        return figures


def train_sentiment(data: Path, out: Path, config: SentimentConfig | None = None) -> dict[str, object]:
    """Train on the texts in `data`, write the model to `out`, and return the figures of its card."""
    training = SentimentTraining(config or SentimentConfig(), data, compile=False)
    training.run()
    return training.export(out)
