"""Every sampling parameter of the API does what its definition says, against transformers' logits."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from transformers import GPT2LMHeadModel

from tests.service.talk import EOS_ID, NEVER_END, complete
from tests.support.tiny_models import byte_tokenizer

PROMPT = "JOKE: ha ha ha"
EOS_NAME = "<|endoftext|>"
GREEDY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, **NEVER_END}
DRAWN: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 60, "logprobs": 20, "temperature": 1, **NEVER_END}


def penalised(logits: torch.Tensor, prompt: list[int], made: list[int], fields: dict[str, Any]) -> torch.Tensor:
    """One row of logits as OpenAI (presence, frequency, bias) and CTRL's authors (repetition) define it."""
    row, counts = logits.clone(), Counter(made)
    for token in {*prompt, *made}:
        factor = fields.get("repetition_penalty", 1.0)
        row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
    for token, count in counts.items():
        row[token] -= fields.get("presence_penalty", 0.0) + count * fields.get("frequency_penalty", 0.0)
    for token, bias in fields.get("logit_bias", {}).items():
        row[int(token)] += bias
    return row


def greedy_by_definition(folder: Path, fields: dict[str, Any]) -> list[int]:
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    prompt: list[int] = byte_tokenizer().encode(fields["prompt"])
    made: list[int] = []
    for _ in range(fields["max_tokens"]):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + made])).logits[0, -1]
        made.append(int(penalised(logits, prompt, made, fields).argmax()))
    return made


def text_of(token_ids: list[int]) -> str:
    return str(byte_tokenizer().decode(token_ids))


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"presence_penalty": 1.5},
        {"presence_penalty": -1.0},
        {"frequency_penalty": 0.8},
        {"frequency_penalty": 2, "presence_penalty": 2, "repetition_penalty": 1.2},
        {"logit_bias": {str(EOS_ID): -100, "70": 9.5, "72": -3}},
    ],
)
async def test_penalties_and_bias_follow_their_definitions(
    client: aiohttp.ClientSession, tiny_folder: Path, fields: dict[str, Any]
) -> None:
    asked = {**GREEDY, **fields}
    plain = (await complete(client, **GREEDY))["choices"][0]["text"]
    changed = (await complete(client, **asked))["choices"][0]["text"]
    assert changed == text_of(greedy_by_definition(tiny_folder, asked))
    assert changed != plain, "the parameter made no difference here, so this shows nothing"


@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {"temperature": 1e-6}, {"top_k": 1}, {"top_p": 1e-6}, {"top_p": 0}, {"min_p": 1}]
)
async def test_every_way_to_say_greedy_is_greedy(
    client: aiohttp.ClientSession, tiny_folder: Path, fields: dict[str, Any]
) -> None:
    asked = {**GREEDY, "temperature": 1, "seed": 4, **fields}
    assert (await complete(client, **asked))["choices"][0]["text"] == text_of(greedy_by_definition(tiny_folder, GREEDY))


@pytest.mark.parametrize("fields", [{"top_k": 3}, {"top_p": 0.2}, {"min_p": 0.5}, {"top_k": 8, "top_p": 0.5}])
async def test_no_token_is_drawn_that_the_filters_drop(client: aiohttp.ClientSession, fields: dict[str, Any]) -> None:
    logprobs = (await complete(client, seed=5, **DRAWN, **fields))["choices"][0]["logprobs"]
    ranks = set()
    for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
        top.pop(EOS_NAME, None)  # banned, but listed: log-probabilities are of the raw logits
        best_first = sorted(top, key=lambda name, top=top: -top[name])
        rank = best_first.index(token)
        ranks.add(rank)
        kept = [math.exp(top[name]) for name in best_first[: fields.get("top_k", len(best_first))]]
        whole = sum(kept) if "top_k" in fields else 1.0
        assert rank < len(kept)
        assert sum(kept[:rank]) <= fields.get("top_p", 1) * whole + 1e-3
        assert kept[rank] >= fields.get("min_p", 0) * kept[0] - 1e-6
    assert len(ranks) > 1, "only the likeliest were drawn, so this shows nothing"


async def test_a_hotter_answer_is_less_likely(client: aiohttp.ClientSession) -> None:
    means = []
    for temperature in (0, 0.5, 1, 2):
        choices = (await complete(client, **{**DRAWN, "temperature": temperature, "seed": 1, "n": 3}))["choices"]
        scores = [score for choice in choices for score in choice["logprobs"]["token_logprobs"]]
        means.append(sum(scores) / len(scores))
    assert means == sorted(means, reverse=True)


async def test_logprobs_are_the_models_own_whatever_the_sampling_does(
    client: aiohttp.ClientSession, tiny_folder: Path
) -> None:
    edits = {"temperature": 0.3, "top_k": 5, "presence_penalty": 1.0, "logit_bias": {"65": 5, str(EOS_ID): -100}}
    logprobs = (await complete(client, **{**DRAWN, "max_tokens": 8, "seed": 2, **edits}))["choices"][0]["logprobs"]
    names = {name: token for token in range(257) if (name := raw_name(token))}
    ids = byte_tokenizer().encode(PROMPT) + [names[token] for token in logprobs["tokens"]]
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(tiny_folder).eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
    rows = expected[-9:-1]
    assert logprobs["token_logprobs"] == pytest.approx(
        [float(r[t]) for r, t in zip(rows, ids[-8:], strict=True)], abs=1e-3
    )
    for row, top in zip(rows, logprobs["top_logprobs"], strict=True):
        assert sorted(top.values())[-20:] == pytest.approx(sorted(row.topk(20).values.tolist()), abs=1e-3)


def raw_name(token: int) -> str:
    """How the API names a token of the tiny models: a byte as text, or by its number."""
    piece = byte_tokenizer().backend_tokenizer.id_to_token(token)
    if token == EOS_ID:
        return str(piece)
    raw = byte_tokenizer().backend_tokenizer.decode([token]).encode() if token < 94 else b""
    return raw.decode() if raw else ""


async def test_the_end_of_the_text_has_a_log_probability_but_no_text(client: aiohttp.ClientSession) -> None:
    ending = {"logit_bias": {str(EOS_ID): 100}, "max_tokens": 5, "temperature": 0, "logprobs": 1}
    choice = (await complete(client, prompt="ab", echo=True, **ending))["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")
    assert choice["logprobs"]["tokens"] == ["a", "b", EOS_NAME]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    assert choice["logprobs"]["token_logprobs"][-1] < 0


async def test_best_of_counts_the_end_and_prefers_saying_something(client: aiohttp.ClientSession) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 6, "seed": 4, "echo": True}
    fields["logit_bias"] = {str(EOS_ID): 6.5}
    everything = (await complete(client, n=8, logprobs=0, **fields))["choices"]
    prompt_len = len(PROMPT)
    answers = [choice["logprobs"]["token_logprobs"][prompt_len:] for choice in everything]
    said = [choice["text"] != PROMPT for choice in everything]
    assert len({len(scores) for scores in answers}) > 1, "all are equally long, so this shows nothing"
    assert not all(said), "none is empty, so this shows nothing"
    means = [sum(scores) / len(scores) if some else -math.inf for scores, some in zip(answers, said, strict=True)]
    best = (await complete(client, best_of=8, **fields))["choices"][0]
    assert best["text"] == everything[means.index(max(means))]["text"]


async def test_lists_of_token_ids_are_echoed_and_scored_each_by_itself(client: aiohttp.ClientSession) -> None:
    """What lm-evaluation-harness sends."""
    encode = byte_tokenizer().encode
    asked = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}
    together = (await complete(client, prompt=[encode("JOKE: a"), encode("b"), encode("ccc")], **asked))["choices"]
    alone = [(await complete(client, prompt=text, **asked))["choices"][0] for text in ("JOKE: a", "b", "ccc")]
    for choice, single in zip(together, alone, strict=True):
        assert choice["text"] == single["text"]
        assert choice["logprobs"]["tokens"] == single["logprobs"]["tokens"]
        assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(
            single["logprobs"]["token_logprobs"][1:], abs=1e-4
        )
