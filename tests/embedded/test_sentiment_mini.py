"""The shipped `sentiment-mini`: what its files hold, what its card promises, and that chat gets sensible answers."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2ForSequenceClassification

from model_service.engine.classifier import Classifier
from model_service.engine.loading import load
from model_service.training.sentiment_figures import accuracy, macro_f1, probabilities
from model_service.training.sentiment_texts import CHAT, CHAT_DEV, LABELS, Labelled, read_labelled
from model_service.training.train_sentiment import remove_prior

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "model_service" / "embedded" / "sentiment-mini"
DATA = ROOT.parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not at {DATA}")

CHAT_TABLE = [
    ("I love this", "positive"),
    ("i love this", "positive"),
    ("I LOVE THIS!!!", "positive"),
    ("that was so funny", "positive"),
    ("thanks, that helped a lot", "positive"),
    ("best joke I've heard today 😂", "positive"),
    ("🎉", "positive"),
    ("❤️", "positive"),
    ("this is terrible", "negative"),
    ("THIS IS TERRIBLE", "negative"),
    ("I don't like it", "negative"),
    ("not good at all", "negative"),
    ("this is not funny", "negative"),
    ("the bot is broken again 😡", "negative"),
    ("worst update ever", "negative"),
    ("👎", "negative"),
    ("ok", "neutral"),
    ("the meeting is at 3pm", "neutral"),
    ("what time is it?", "neutral"),
    ("I'm on the bus", "neutral"),
    ("can someone send me the link?", "neutral"),
    ("THE MEETING IS AT 3PM", "neutral"),
    ("<@123456789012345678> it's your turn", "neutral"),
]


@pytest.fixture(scope="module")
def model() -> GPT2ForSequenceClassification:
    return AutoModelForSequenceClassification.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))


def dev_set(name: str) -> list[Labelled]:
    return read_labelled(DATA / f"{name}.tsv.gz")


def test_is_a_gpt2_classifier_with_the_promised_labels() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    assert config["id2label"] == {"0": "negative", "1": "neutral", "2": "positive"}
    assert config["label2id"] == {"negative": 0, "neutral": 1, "positive": 2}


def test_holds_fp16_weights_of_at_most_8_mb_and_nothing_pickled() -> None:
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    with safe_open(weights, "pt") as tensors:
        held = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118 (not a dict)
    assert {t.dtype for t in held} == {torch.float16}
    assert all(bool(t.isfinite().all()) for t in held)
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "figures.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@needs_data
def test_reaches_the_promised_accuracy_on_film_reviews(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, figures: dict[str, Any]
) -> None:
    measured = accuracy(model, tokenizer, dev_set("sst2_dev"))
    assert measured >= 82.0
    assert measured == pytest.approx(figures["sst2_dev_accuracy"], abs=0.3)


@needs_data
def test_reaches_the_promised_accuracy_on_tweets(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, figures: dict[str, Any]
) -> None:
    tweets = dev_set("tweets_dev")
    measured = accuracy(model, tokenizer, tweets)
    assert measured >= 70.0
    assert measured == pytest.approx(figures["tweets_dev_accuracy"], abs=0.3)
    assert macro_f1(model, tokenizer, tweets) == pytest.approx(figures["tweets_dev_macro_f1"], abs=0.3)


def test_tells_the_mood_of_chat_it_has_not_seen(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, figures: dict[str, Any]
) -> None:
    measured = accuracy(model, tokenizer, read_labelled(CHAT_DEV))
    assert measured >= 80.0
    assert measured == pytest.approx(figures["chat_dev_accuracy"], abs=1.4)  # one line of the 75


def test_the_held_out_chat_is_not_in_the_training_chat() -> None:
    trained = {text.text.casefold() for text in read_labelled(CHAT)}
    assert not [text.text for text in read_labelled(CHAT_DEV) if text.text.casefold() in trained]


@pytest.mark.parametrize(("text", "expected"), CHAT_TABLE)
def test_answers_plain_chat_sensibly(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer, text: str, expected: str
) -> None:
    probs = probabilities(model, tokenizer, [text])[0]
    assert LABELS[int(probs.argmax())] == expected, dict(zip(LABELS, probs.tolist(), strict=True))


def test_case_does_not_change_an_answer(model: GPT2ForSequenceClassification, tokenizer: Tokenizer) -> None:
    lower, upper = probabilities(model, tokenizer, ["what a great day", "WHAT A GREAT DAY"])
    assert torch.allclose(lower, upper, atol=1e-5)


def test_an_answer_does_not_depend_on_the_texts_beside_it(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer
) -> None:
    texts = ["fun", "a much longer and rather dull text about nothing at all", "ok"]
    together = probabilities(model, tokenizer, texts)
    alone = torch.cat([probabilities(model, tokenizer, [text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_tokenizer_of_transformers_reads_as_the_file_does(tokenizer: Tokenizer) -> None:
    for text, _ in CHAT_TABLE:
        assert AutoTokenizer.from_pretrained(FOLDER)(text)["input_ids"] == tokenizer.encode(text).ids


async def test_the_engine_gives_the_probabilities_of_transformers(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer
) -> None:
    texts = [text for text, _ in CHAT_TABLE]
    classifier = load(str(FOLDER), "classify", model_id="sentiment-mini", weights="float32", device="cpu")
    assert isinstance(classifier, Classifier)
    try:
        assert classifier.labels == list(LABELS)
        ours = torch.tensor(await classifier.classify(texts))
    finally:
        await classifier.close()
    assert torch.allclose(ours, probabilities(model, tokenizer, texts), atol=1e-4)


def test_a_long_message_of_2000_characters_still_fits(tokenizer: Tokenizer) -> None:
    context_len = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["n_positions"]
    assert len(tokenizer.encode("I really love this server, it is great. " * 50).ids) <= context_len


def test_a_long_text_keeps_its_mood(model: GPT2ForSequenceClassification, tokenizer: Tokenizer) -> None:
    good, bad = probabilities(
        model, tokenizer, ["I love this, what a great game. " * 40, "I hate this, what an awful game. " * 40]
    )
    assert LABELS[int(good.argmax())] == "positive"
    assert LABELS[int(bad.argmax())] == "negative"


def test_the_card_shows_the_figures_of_the_file_beside_it(figures: dict[str, Any]) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("sst2_dev_accuracy", "tweets_dev_accuracy", "tweets_dev_macro_f1", "chat_dev_accuracy"):
        assert f"| {figures[name]:.2f} |" in card, name
    assert f"{figures['parameters']:,} parameters" in card
    size_mb = (FOLDER / "model.safetensors").stat().st_size / 1e6
    assert f"({size_mb:.1f} MB in FP16)" in card


def test_the_training_texts_share_of_positive_ones_is_taken_out_of_the_head(
    model: GPT2ForSequenceClassification, tokenizer: Tokenizer
) -> None:
    changed = copy.deepcopy(model)
    binary = [Labelled("good", (0.0, 0.0, 1.0), True)] * 3 + [Labelled("bad", (1.0, 0.0, 0.0), True)]
    remove_prior(changed, [*binary, Labelled("tweet", (0.0, 0.0, 1.0), False)])
    before, after = (probabilities(m, tokenizer, ["a film"])[0].log() for m in (model, changed))
    assert (before - after)[2] - (before - after)[0] == pytest.approx(math.log(3), abs=1e-4)
