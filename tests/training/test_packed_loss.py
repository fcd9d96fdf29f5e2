"""A packed joke has the loss it has alone: it sees nothing of its neighbours."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from model_service.training.dataset import IGNORE, Encoded, Example, collate, encode, pack, spread
from model_service.training.evaluate import losses
from model_service.training.loss import packed_loss
from tests.support.tiny_models import byte_tokenizer, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

JOKES = ["Ha!", "A duck walks into a bar.", "Knock knock. Who is there?", "Two owls.", "Moo, said the cow to the bee."]
TOKENIZER = byte_tokenizer().backend_tokenizer
EOS_ID = 256


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(tiny_config(initializer_range=0.3)).eval()


def encoded(prompt: str = "JOKE:") -> list[Encoded]:
    return encode([Example(prompt, f" {joke}") for joke in JOKES], TOKENIZER, EOS_ID)


def alone(model: GPT2LMHeadModel, example: Encoded) -> float:
    """The plain transformers loss of one text, unpacked: nats summed over its completion."""
    input_ids = torch.tensor([example.input_ids])
    labels = input_ids.clone()
    labels[:, : example.num_prompt] = IGNORE
    count = (labels[:, 1:] != IGNORE).sum()
    return float(model(input_ids=input_ids, labels=labels).loss * count)


def test_packed_and_unpacked_losses_agree(model: GPT2LMHeadModel) -> None:
    examples = encoded()
    rows, too_long = pack(examples, 96)
    assert len(rows) < len(examples)
    assert not too_long
    with torch.no_grad():
        packed = packed_loss(model, collate(rows, 96, 0), "sum").item()
        assert packed == pytest.approx(sum(alone(model, e) for e in examples), rel=1e-5)


def test_losses_per_joke_come_in_the_order_given(model: GPT2LMHeadModel) -> None:
    examples = encoded()
    found = losses(model, examples, 96)
    with torch.no_grad():
        assert found.nats == pytest.approx([alone(model, e) for e in examples], rel=1e-5)
    assert found.tokens.tolist() == [len(e.input_ids) - e.num_prompt for e in examples]


def test_texts_without_a_prompt_count_from_their_second_token(model: GPT2LMHeadModel) -> None:
    examples = encoded(prompt="")
    assert losses(model, examples, 96).tokens.tolist() == [len(e.input_ids) - 1 for e in examples]


def test_no_joke_sees_its_neighbour(model: GPT2LMHeadModel) -> None:
    first, second, *_ = encoded()
    other = Encoded([(i + 7) % 256 for i in first.input_ids], first.num_prompt)
    with torch.no_grad():
        one, two = (losses(model, [e, second], 96).nats for e in (first, other))
    assert one[0] != two[0]
    assert np.isclose(one[1], two[1], rtol=1e-6)


def test_gradients_do_not_cross_from_joke_to_joke(model: GPT2LMHeadModel) -> None:
    first, second, *_ = encoded()
    batch = collate([[first, second]], 96, 0)
    embedded = model.transformer.wte(batch.input_ids).detach().requires_grad_()
    logits = model(
        inputs_embeds=embedded, position_ids=batch.position_ids, attention_mask=batch.attention_mask()
    ).logits
    start = len(first.input_ids)
    logits[0, start + 3].sum().backward()
    assert embedded.grad is not None
    assert embedded.grad[0, :start].abs().sum() == 0
    assert embedded.grad[0, start : start + 4].abs().sum() > 0


def test_what_does_not_fit_is_given_back_and_never_cut() -> None:
    long = Encoded(list(range(97)), 3)
    rows, too_long = pack([*encoded(), long], 96)
    assert too_long == [long]
    assert sorted(len(e.input_ids) for row in rows for e in row) == sorted(len(e.input_ids) for e in encoded())


def test_the_rows_of_a_step_are_few_and_even() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        step = [Encoded([7] * size, 1) for size in generator.integers(3, 97, 16).tolist()]
        rows = spread(step, 96)
        sizes = [sum(len(e.input_ids) for e in row) for row in rows]
        assert sorted(map(id, step)) == sorted(id(e) for row in rows for e in row), "each once"
        assert max(sizes) <= 96
        assert len(rows) <= len(pack(step, 96)[0]) + 1
        assert min(sizes) > 0


def test_a_step_of_small_jokes_pads_next_to_nothing() -> None:
    generator = np.random.default_rng(0)
    held = used = 0
    for _ in range(50):
        step = [Encoded([7] * size, 1) for size in generator.integers(10, 60, 16).tolist()]
        sizes = [sum(len(e.input_ids) for e in row) for row in spread(step, 256)]
        held, used = held + len(sizes) * max(sizes), used + sum(sizes)
    assert held < 1.03 * used
