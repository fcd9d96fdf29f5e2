"""What a fine-tune leaves out is said to the moderator, in every form of its message."""

import pytest

from bot.cogs import training_words as words
from bot.service_client import Json


def job(too_long: int | None) -> Json:
    counts = {"train": 180, "held_out": 33, "too_long": too_long, "duplicates": 0}
    return {"id": "ftjob-1", "status": "running", "punchline": {"counts": counts, "step": 3, "total_steps": 9}}


def test_jokes_too_long_for_the_model_are_numbered_while_it_trains_and_at_the_end() -> None:
    said = [words.progress(job(8)), words.not_better(job(8), "jokes-mini"), words.failed(job(8), "jokes-mini")]
    assert all(
        "180 jokes to learn from, 33 to test with · 8 too long for the model, left out\n" in text for text in said
    )


@pytest.mark.parametrize("too_long", [0, None])
def test_nothing_is_said_of_what_was_not_left_out(too_long: int | None) -> None:
    assert "too long" not in words.progress(job(too_long))
