"""`POST /v1/completions` in one piece: right text, right shape, right counts."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
import torch
from transformers import GPT2LMHeadModel

from tests.service.talk import EOS_ID, NEVER_END, complete, refused
from tests.support.tiny_models import byte_tokenizer

GREEDY = {"temperature": 0, **NEVER_END}


def reference(folder: Path, prompt: str, max_tokens: int) -> str:
    """transformers' own greedy answer."""
    tokenizer = byte_tokenizer()
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([tokenizer.encode(prompt)])
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            suppress_tokens=[EOS_ID],
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :]))


async def test_greedy_text_equals_transformers(client: aiohttp.ClientSession, tiny_folder: Path) -> None:
    prompts = ["JOKE:", "a", "Why did the chicken cross the road?"]
    together = await complete(client, prompt=prompts, max_tokens=24, **GREEDY)
    assert [choice["text"] for choice in together["choices"]] == [reference(tiny_folder, p, 24) for p in prompts]


async def test_the_answer_has_openais_shape(client: aiohttp.ClientSession) -> None:
    answer = await complete(client, max_tokens=3, **GREEDY)
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    assert answer.keys() == {"id", "object", "created", "model", "choices", "usage"}
    [choice] = answer["choices"]
    assert choice.keys() == {"text", "index", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


async def test_every_form_of_prompt_gives_the_same_text(client: aiohttp.ClientSession) -> None:
    ids = byte_tokenizer().encode("JOKE:")
    forms = ["JOKE:", ["JOKE:"], ids, [ids]]
    answers = [await complete(client, prompt=form, max_tokens=8, **GREEDY) for form in forms]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1


async def test_null_means_the_default(client: aiohttp.ClientSession) -> None:
    answer = await complete(client, max_tokens=None, stop=None, seed=None, best_of=None, **GREEDY)
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("prompt", ["", [""], [[]]])
async def test_an_empty_prompt_starts_from_end_of_text(client: aiohttp.ClientSession, prompt: object) -> None:
    empty = await complete(client, prompt=prompt, max_tokens=8, **GREEDY)
    explicit = await complete(client, prompt=[EOS_ID], max_tokens=8, **GREEDY)
    assert empty["choices"] == explicit["choices"]
    assert empty["usage"] == explicit["usage"]


async def test_n_answers_per_prompt_in_the_prompts_order(client: aiohttp.ClientSession) -> None:
    answer = await complete(client, prompt=["a", "b"], n=2, max_tokens=6, seed=1, **NEVER_END)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 24, "total_tokens": 26}
    alone = await complete(client, prompt="b", n=2, max_tokens=6, seed=1, **NEVER_END)
    assert [c["text"] for c in answer["choices"][2:]] == [c["text"] for c in alone["choices"]]


async def test_the_same_seed_gives_the_same_texts_and_each_choice_its_own(client: aiohttp.ClientSession) -> None:
    fields = {"max_tokens": 12, "seed": 7, **NEVER_END}
    noise = asyncio.gather(*(complete(client, prompt="noise", max_tokens=40, **NEVER_END) for _ in range(3)))
    first, again = await complete(client, n=3, **fields), await complete(client, n=3, **fields)
    await noise
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in again["choices"]]
    assert len(set(texts)) == 3
    single = await complete(client, **fields)
    assert single["choices"][0]["text"] == texts[0]
    other = await complete(client, **{**fields, "seed": 8})
    assert other["choices"][0]["text"] != texts[0]


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
async def test_every_64_bit_seed_works(client: aiohttp.ClientSession, seed: int) -> None:
    first, again = [await complete(client, seed=seed, n=2, max_tokens=5) for _ in range(2)]
    assert first["choices"] == again["choices"]


async def test_a_stop_text_over_several_tokens_ends_the_answer_before_it(client: aiohttp.ClientSession) -> None:
    whole = (await complete(client, max_tokens=40, seed=3, **NEVER_END))["choices"][0]["text"]
    middle = next(i for i in range(4, 36) if "\ufffd" not in whole[i : i + 3] and whole.index(whole[i : i + 3]) == i)
    stop = whole[middle : middle + 3]  # a token is one byte
    fields = {"max_tokens": 40, "seed": 3, **NEVER_END}
    for given in (stop, [stop], ["never there", stop]):
        choice = (await complete(client, stop=given, **fields))["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (whole[:middle], "stop")


async def test_best_of_returns_the_likeliest_by_mean_logprob(client: aiohttp.ClientSession) -> None:
    fields = {"max_tokens": 8, "seed": 5, **NEVER_END}
    everything = (await complete(client, n=6, logprobs=0, **fields))["choices"]
    means = [sum(c["logprobs"]["token_logprobs"]) / 8 for c in everything]
    ranked = [c["text"] for _, c in sorted(zip(means, everything, strict=True), key=lambda pair: -pair[0])]
    best = await complete(client, n=2, best_of=6, **fields)
    assert [c["text"] for c in best["choices"]] == ranked[:2]
    assert [c["index"] for c in best["choices"]] == [0, 1]
    assert best["choices"][0]["logprobs"] is None
    assert best["usage"]["completion_tokens"] == 48


async def test_logit_bias_can_force_a_token(client: aiohttp.ClientSession) -> None:
    [token] = byte_tokenizer().encode("!")
    answer = await complete(client, max_tokens=5, temperature=0, logit_bias={str(token): 100})
    assert answer["choices"][0]["text"] == "!!!!!"


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_echo_with_logprobs_scores_the_prompt(
    client: aiohttp.ClientSession, tiny_folder: Path, max_tokens: int
) -> None:
    answer = await complete(client, prompt="JOKE: 1", echo=True, logprobs=2, max_tokens=max_tokens, **GREEDY)
    choice = answer["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"].startswith("JOKE: 1")
    assert logprobs["tokens"][:7] == list("JOKE: 1")
    assert logprobs["text_offset"][:7] == list(range(7))
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(len(top) >= 2 for top in logprobs["top_logprobs"][1:])
    assert len(logprobs["tokens"]) == 7 + max_tokens
    assert answer["usage"]["completion_tokens"] == max_tokens
    ids = torch.tensor(byte_tokenizer().encode("JOKE: 1"))
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(tiny_folder).eval()(ids[None]).logits[0].log_softmax(-1)
    chosen = expected[:-1].gather(-1, ids[1:, None])[:, 0].tolist()
    assert logprobs["token_logprobs"][1:7] == pytest.approx(chosen, abs=1e-3)


async def test_half_a_character_is_named_by_its_bytes(client: aiohttp.ClientSession) -> None:
    answer = await complete(client, prompt="é!", echo=True, logprobs=0, max_tokens=0)
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xa9", "!"]
    assert logprobs["text_offset"] == [0, 0, 1]
    assert logprobs["top_logprobs"] is None


async def test_what_does_not_fit_is_refused_with_the_numbers(client: aiohttp.ClientSession) -> None:
    status, error = await refused(client, model="tiny", prompt="x" * 120, max_tokens=20)
    assert status == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert all(number in error["message"] for number in ("128", "120", "20", "140"))


async def test_token_ids_the_model_does_not_have_are_refused(client: aiohttp.ClientSession) -> None:
    for prompt in ([257], [-1], [[1], [10**30]]):
        status, error = await refused(client, model="tiny", prompt=prompt)
        assert (status, error["param"]) == (400, "prompt")
        assert error["message"] == "prompt holds a token id outside 0 to 256."
    status, error = await refused(client, model="tiny", prompt="a", logit_bias={"257": 1})
    assert (status, error["message"]) == (400, "logit_bias holds a token id outside 0 to 256.")
