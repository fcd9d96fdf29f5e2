"""What a model says is compared with what it was trained on; samples depend on the seed alone."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from model_service.training.dataset import Example
from model_service.training.evaluate import commonest_prompt, general_texts, is_copy, sample, verbatim_rate
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


def test_a_run_across_two_jokes_is_no_copy() -> None:
    library = "abcdefghijklmnop\nqrstuvwxyzabcdef"
    assert not is_copy("ijklmnopqrstuvwx", library)
    assert is_copy("abcdefghijklmnop", library)


@pytest.mark.usefixtures("one_thread")
def test_samples_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(tiny_config(initializer_range=0.2))
    first, again, other = (sample(model, TOKENIZER, "JOKE:", eos_token_id=256, seed=seed, n=4) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 1


def test_the_commonest_prompt_is_sampled_from() -> None:
    assert commonest_prompt([Example("JOKE:", "a"), Example("JOKE about it:", "b"), Example("JOKE:", "c")]) == "JOKE:"


def test_general_texts_that_do_not_fit_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text('{"id": "a", "text": "Short."}\n{"id": "b", "text": "' + "long " * 40 + '"}\n')
    assert [len(e.input_ids) for e in general_texts(TOKENIZER, 256, 64, path)] == [len("Short.") + 1]


def test_the_general_texts_of_the_package_are_there() -> None:
    assert len(general_texts(TOKENIZER, 256, 1024)) >= 20
