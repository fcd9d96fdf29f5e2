"""What a model says is compared with what it was trained on; samples depend on the seed alone."""

import math
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import GPT2LMHeadModel

from bot.ui.text import LINK, MASK, sanitise
from model_service.training import output_filter
from model_service.training.dataset import Example, encode
from model_service.training.evaluate import (
    bits_per_character,
    commonest_prompt,
    distinct_2,
    draw,
    general_texts,
    is_copy,
    losses,
    num_characters,
    num_labelled,
    sample,
    verbatim_rate,
)
from tests.support.tiny_models import byte_tokenizer, tiny_config

JOKES = ["Why did the duck cross the road? To get to the other side.", "A cat walks into a bar and orders milk."]
TOKENIZER = byte_tokenizer().backend_tokenizer


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        (JOKES[0], True),
        ("why did the DUCK cross the road?? to get to the other SIDE", True),
        ("Why did the duck cross the road? Because of Tom.", True),
        ("A cat walks into a bank and asks for a loan.", False),
        ("Two owls sat on a wall, and one of them fell.", False),
        ("Why?", False),
        ("", False),
    ],
)
def test_a_sample_is_a_copy_when_most_of_it_stands_in_one_joke(text: str, copied: bool) -> None:
    assert verbatim_rate([text], JOKES) == float(copied)


@pytest.mark.parametrize("start", [0, 4, 7])
def test_over_60_percent_is_a_copy_wherever_it_stands_and_60_percent_is_none(start: int) -> None:
    joke, other = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    for copied, is_one in ((12, False), (13, True)):
        text = other[:start] + joke[5 : 5 + copied] + other[: 20 - copied - start]
        assert len(text) == 20
        assert is_copy(text, joke) == is_one, (text, copied)


def test_a_run_across_two_jokes_is_no_copy() -> None:
    library = "abcdefghijklmnop\nqrstuvwxyzabcdef"
    assert not is_copy("ijklmnopqrstuvwx", library)
    assert is_copy("abcdefghijklmnop", library)


def test_copies_are_what_trying_every_run_finds() -> None:
    random = Random(3)
    jokes = ["".join(random.choices("abc", k=40)) for _ in range(60)]
    library = "\n".join(jokes)
    found = 0
    for _ in range(300):
        joke, start, size = random.choice(jokes), random.randrange(20), random.randint(8, 20)
        text = "".join(random.choices("abc", k=4)) + joke[start : start + size] + "".join(random.choices("abc", k=6))
        longest = max(j - i for i in range(len(text)) for j in range(i, len(text) + 1) if text[i:j] in library)
        assert is_copy(text, library) == (longest > 0.6 * len(text) and len(text) >= 16), text
        found += is_copy(text, library)
    assert 50 < found < 250


@pytest.mark.usefixtures("one_thread")
def test_samples_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config(initializer_range=0.2))
    first, again, other = (sample(model, TOKENIZER, "JOKE:", eos_token_id=256, seed=seed, n=4) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 1


@pytest.mark.usefixtures("one_thread")
def test_a_sample_is_its_own_seeds_whatever_is_drawn_beside_it() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config(initializer_range=0.2))
    together = sample(model, TOKENIZER, "JOKE:", eos_token_id=256, seed=5, n=4)
    assert together[2:] == sample(model, TOKENIZER, "JOKE:", eos_token_id=256, seed=7, n=2)


def test_draws_follow_the_probabilities_of_what_top_p_keeps() -> None:
    probs = torch.tensor([0.02, 0.5, 0.1, 0.36, 0.02])
    luck = (torch.arange(1000) + 0.5) / 1000
    drawn = draw((probs.log() * 0.8).repeat(1000, 1), luck)
    shares = torch.bincount(drawn, minlength=5) / 1000
    torch.testing.assert_close(shares, torch.tensor([0, 0.5, 0.1, 0.36, 0]) / 0.96, atol=2e-3, rtol=0)


def test_distinct_2_is_the_share_of_different_pairs_of_words() -> None:
    assert distinct_2(["A cat sat.", "a CAT slept"]) == 3 / 4
    assert distinct_2(["one two three four"]) == 1
    assert distinct_2(["", "Why?"]) == 0


@pytest.mark.usefixtures("one_thread")
def test_bits_per_character_are_bits_per_byte_less_the_end_where_a_token_is_a_byte() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config())
    encoded = encode([Example("JOKE:", " Why not?"), Example("", "A cat.")], TOKENIZER, 256)
    measured = losses(model, encoded, 64)
    assert num_characters(encoded, TOKENIZER) == len(" Why not?") + len(" cat.")  # nothing predicts a first token
    assert num_labelled(encoded) == measured.tokens.sum() == num_characters(encoded, TOKENIZER) + 2
    assert bits_per_character(10 * math.log(2), 5) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "text",
    [
        "Why did the duck cross the road?",
        "See https://example.com now",
        "www.example.com",
        "join discord.gg/abc",
        "Scunthorpe has a niggardly raccoon.",
        "a word:// b",
        *(f"You {word.split('(')[0]} there" for word in output_filter.words() if "(" not in word),
        *(f"{word.upper()}S!" for word in output_filter.words() if "(" not in word),
    ],
)
def test_what_is_counted_as_held_back_is_what_the_bot_hides(text: str) -> None:
    shown = sanitise(text)
    assert output_filter.is_held_back(text) == (MASK in shown or LINK in shown)


def test_the_commonest_prompt_is_sampled_from() -> None:
    assert commonest_prompt([Example("JOKE:", "a"), Example("JOKE about it:", "b"), Example("JOKE:", "c")]) == "JOKE:"


def test_general_texts_that_do_not_fit_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text('{"id": "a", "text": "Short."}\n{"id": "b", "text": "' + "long " * 40 + '"}\n')
    assert [len(e.input_ids) for e in general_texts(TOKENIZER, 256, 64, path)] == [len("Short.") + 1]


def test_the_general_texts_of_the_package_are_there() -> None:
    assert len(general_texts(TOKENIZER, 256, 1024)) >= 20
