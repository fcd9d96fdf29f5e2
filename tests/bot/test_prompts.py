import pytest

from bot.prompts import clean_topic, joke_prompt, training_rows


@pytest.mark.parametrize("model", ["jokes-mini", "ft:jokes-mini:42:ftjob-1"])
def test_our_own_models_get_the_bare_format_they_were_trained_on(model: str) -> None:
    assert joke_prompt(model).text == "JOKE:"
    assert joke_prompt(model, "cats").text == "JOKE about cats:"


def test_a_foreign_model_sees_jokes_first_and_stops_at_the_line_end() -> None:
    prompt = joke_prompt("gpt2-xl", "cats")
    assert prompt.text.endswith("\nJOKE about cats:")
    assert prompt.text.count("JOKE about") == 5
    assert prompt.stop == ("\n",)
    assert joke_prompt("gpt2-xl").text.endswith("\nJOKE:")
    assert "about" not in joke_prompt("gpt2-xl").text.split("\n")[-1]


@pytest.mark.parametrize(
    ("typed", "topic"),
    [
        ("about cats", "cats"),
        ("About  black\ncats?", "black cats"),
        ("a joke about cats", "cats"),
        ("cats", "cats"),
        ("about about a boy", "about a boy"),
        ("roundabouts", "roundabouts"),
        ("about", None),
        ("  ", None),
        (None, None),
    ],
)
def test_a_topic_is_found_in_what_was_typed(typed: str | None, topic: str | None) -> None:
    assert clean_topic(typed) == topic


def test_training_rows_carry_the_id_and_the_completion_begins_with_a_space() -> None:
    assert training_rows([(7, " Why?\n")]) == [{"id": "7", "prompt": "JOKE:", "completion": " Why?"}]
