"""Trains the embedded `jokes-mini` from nothing: tokenizer, weights, model card figures.

    jokes_train.csv.gz ─ filter ─ BPE ─ packed rows ─ Muon + AdamW, linear decay ─ safetensors
                                                     └ checkpoint every few minutes; the same command goes on from it

Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers") takes the matrices of the blocks,
AdamW the rest. The learning rate is constant for the first part of the steps and falls linearly to
zero over the last (`decay_fraction`), so a run that must end sooner resumes with fewer `steps`.
Every step depends on the seed and its number alone, so a resumed run ends like one that was not stopped.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from model_service.training.dataset import Batch, Example, batches, encode
from model_service.training.joke_card import draw_samples, write_card
from model_service.training.joke_texts import (
    PROMPT,
    Forms,
    TopicPicker,
    epoch_examples,
    read_jokes,
    shifted,
    word_filter,
)
from model_service.training.loss import packed_loss
from model_service.training.muon import Muon

log = logging.getLogger(__name__)

EOS = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Everything the result depends on, data aside."""

    steps: int = 1750
    seed: int = 7
    vocab_size: int = 6144
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_positions: int = 256
    dropout: float = 0.05
    rows_per_batch: int = 16
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_fraction: float = 11 / 35
    forms: Forms = field(default_factory=Forms)
    num_samples: int = 24  # in the model card


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE, as GPT-2's, whose token 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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


@torch.no_grad()
def bits_per_character(model: GPT2LMHeadModel, tokenizer: Tokenizer, texts: list[str], row_len: int) -> float:
    """Return the bits the model needs for `" " + text` after `JOKE:`, per character of text.

    The end-of-text token counts as part of each text; a text longer than a row counts nowhere.
    """
    model.eval()
    encoded = encode([Example(PROMPT, f" {text}") for text in texts], tokenizer, eos_token_id=0)
    kept = [(e, len(t)) for e, t in zip(encoded, texts, strict=True) if len(e.input_ids) <= row_len]
    nats = sum(
        packed_loss(model, b, "sum").item()
        for b in batches([e for e, _ in kept], row_len=row_len, rows_per_batch=16, pad_token_id=0)
    )
    return nats / math.log(2) / sum(size for _, size in kept)


def optimizers(model: GPT2LMHeadModel, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Give the blocks' matrices to Muon, and embeddings, biases and norms to AdamW."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".h." in name)]
    return [
        Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def lr_factor(step: int, config: PretrainConfig) -> float:
    """Return what the peak learning rates are multiplied by: warm-up, plateau, linear decay to 0."""
    decay_steps = max(1, round(config.steps * config.decay_fraction))
    return min((step + 1) / config.warmup_steps, 1.0, (config.steps - step) / decay_steps)


class Pretraining:
    """One run. `run` trains to the end or resumes; `export` writes the finished model."""

    def __init__(self, config: PretrainConfig, data: Path, out: Path, *, compile: bool) -> None:
        self.config, self.out = config, out
        torch.manual_seed(config.seed)
        torch.set_flush_denormal(True)
        self.blocked = word_filter(data / "wordlists/ldnoobw_en.txt")
        self.train_texts = read_jokes(data / "jokes_train.csv.gz", self.blocked)
        self.dev_texts = read_jokes(data / "jokes_dev.csv.gz")
        self.tokenizer = train_tokenizer(self.train_texts, config.vocab_size)
        self.topics = TopicPicker(self.train_texts)
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=config.n_positions,
                n_embd=config.n_embd,
                n_layer=config.n_layer,
                n_head=config.n_head,
                resid_pdrop=config.dropout,
                embd_pdrop=config.dropout,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
            )
        )
        self.optimizers = optimizers(self.model, config)
        self.loss: Callable[..., Tensor] = torch.compile(packed_loss) if compile else packed_loss
        self.step = 0

    def _epoch(self, epoch: int) -> list[Batch]:
        """Make the batches of an epoch. Raises ValueError if there are too few jokes for one."""
        config = self.config
        examples = epoch_examples(self.train_texts, self.topics, config.forms, config.seed, epoch)
        encoded = encode(examples, self.tokenizer, eos_token_id=0)
        made = batches(
            list(shifted(encoded, config.forms, config.n_positions, config.seed, epoch)),
            row_len=config.n_positions,
            rows_per_batch=config.rows_per_batch,
            pad_token_id=0,
            seed=config.seed * 1000 + epoch,
        )
        whole = [b for b in made if len(b.input_ids) == config.rows_per_batch]  # one shape to compile for
        if not whole:
            raise ValueError(f"{len(self.train_texts)} jokes do not fill one batch of {config.rows_per_batch} rows")
        return whole

    def run(self, *, eval_every: int = 300, save_every: int = 150) -> None:
        """Train until `config.steps`; log the loss, held-out bits per character and speed."""
        self._restore()
        epoch, first_of_epoch = 0, 0
        while self.step < self.config.steps:
            epoch_batches = self._epoch(epoch)
            for batch in epoch_batches[max(0, self.step - first_of_epoch) :]:
                if self.step == self.config.steps:
                    break
                self._train_step(batch)
                if self.step % eval_every == 0:
                    bpc = bits_per_character(self.model, self.tokenizer, self.dev_texts[:400], self.config.n_positions)
                    log.info("step %d epoch %d: held-out bits per character %.4f (400 jokes)", self.step, epoch, bpc)
                if self.step % save_every == 0:
                    self._save()
            first_of_epoch += len(epoch_batches)
            epoch += 1
        self._save()

    def _train_step(self, batch: Batch) -> None:
        start = time.perf_counter()
        self.model.train()
        torch.manual_seed(self.config.seed + self.step)  # dropout is the same after a resume
        factor = lr_factor(self.step, self.config)
        loss = self.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, peak in zip(self.optimizers, (self.config.muon_lr, self.config.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % 20 == 0:
            speed = batch.input_ids.numel() / (time.perf_counter() - start)
            log.info(
                "step %d/%d loss %.4f lr x%.3f %.0f tokens/s", self.step, self.config.steps, loss.item(), factor, speed
            )

    def _save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        temporary = self.out / "checkpoint.tmp"
        torch.save(state, temporary)
        temporary.replace(self.out / "checkpoint.pt")

    def _restore(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        log.info("resumed at step %d", self.step)

    def export(self, folder: Path) -> dict[str, object]:
        """Write FP16 safetensors, tokenizer and model card to `folder`; return the card's figures."""
        half = GPT2LMHeadModel(self.model.config).to(torch.float16)
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
        shipped = half.float().eval()
        figures = self._figures(shipped)
        write_card(folder, figures, draw_samples(shipped, self.tokenizer, self.config.num_samples), self.blocked)
        return figures

    def _figures(self, shipped: GPT2LMHeadModel) -> dict[str, object]:
        config = self.config
        bpc = bits_per_character(shipped, self.tokenizer, self.dev_texts, config.n_positions)
        return {
            **asdict(config),
            "jokes": len(self.train_texts),
            "dev_jokes": len(self.dev_texts),
            "tokens_per_step": config.rows_per_batch * config.n_positions,
            "epochs": round(config.steps / len(self._epoch(0)), 2),
            "bits_per_character": round(bpc, 4),
            "parameters": sum(p.numel() for p in shipped.parameters()),
        }
