"""`/v1/classify`, `/v1/models`, `/health`, `/metrics` and the `openai` client, over the real socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest
import torch
from transformers import GPT2ForSequenceClassification

from tests.service.conftest import LABELS
from tests.service.talk import NEVER_END, complete, metric, refused
from tests.support.service_process import ServiceProcess
from tests.support.tiny_models import byte_tokenizer


@pytest.fixture
async def openai_client(service: ServiceProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx2.AsyncHTTPTransport(uds=str(service.socket_path))
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(base_url="http://service/v1", api_key="none", http_client=http, max_retries=0) as client,
    ):
        yield client


async def test_classify_gives_transformers_probabilities_in_label_order(
    client: aiohttp.ClientSession, mood_folder: Path
) -> None:
    texts = ["I love this", "meh"]
    async with client.post("/v1/classify", json={"model": "mood", "input": texts}) as response:
        assert response.status == 200
        answer = await response.json()
    assert (answer["object"], answer["model"]) == ("list", "mood")
    model = GPT2ForSequenceClassification.from_pretrained(mood_folder).eval()
    for index, text in enumerate(texts):
        entry = answer["data"][index]
        with torch.no_grad():
            probs = model(torch.tensor([byte_tokenizer().encode(text)])).logits[0].softmax(-1)
        assert entry["probs"] == pytest.approx(probs.tolist(), abs=1e-4)
        assert entry["label"] == LABELS[int(probs.argmax())]
        assert (entry["index"], entry["num_classes"]) == (index, 3)
    assert answer["usage"]["prompt_tokens"] == len("I love this") + len("meh")


async def test_one_text_is_a_list_of_one(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/classify", json={"model": "mood", "input": "hm"}) as response:
        assert len((await response.json())["data"]) == 1


@pytest.mark.parametrize("wrong", [[], 3, None, ["a", 1], "\ud800", ["a"] * 1025, "", "x" * 129, {"a": 1}])
async def test_wrong_input_is_refused(client: aiohttp.ClientSession, wrong: object) -> None:
    status, error = await refused(client, "/v1/classify", model="mood", input=wrong)
    assert (status, error["param"]) == (400, "input")


async def test_models_are_listed_with_where_they_are(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/models") as response:
        listing = await response.json()
    assert listing["object"] == "list"
    assert [model["id"] for model in listing["data"]] == ["tiny", "long", "mood"]
    tiny = listing["data"][0]
    assert tiny.items() >= {"object": "model", "owned_by": "punchline", "task": "generate", "state": "ready"}.items()
    assert tiny["weights"] == "float32"
    assert tiny["bytes"] > 100_000
    assert tiny["device_map"]
    async with client.get("/v1/models/tiny") as response:
        assert await response.json() == tiny


async def test_a_configured_model_cannot_be_deleted(client: aiohttp.ClientSession) -> None:
    async with client.delete("/v1/models/tiny") as response:
        assert response.status == 409
        error = (await response.json())["error"]
    assert error["message"] == "tiny is one of the configured models: take it out of the settings instead."
    async with client.delete("/v1/models/ft:tiny:nobody:ftjob-1") as response:
        assert response.status == 404


async def test_health_says_live_and_ready(client: aiohttp.ClientSession) -> None:
    for path in ("/health/live", "/health/ready"):
        async with client.get(path) as response:
            assert response.status == 200


async def test_metrics_count_requests_tokens_and_the_first_token(client: aiohttp.ClientSession) -> None:
    samples = {
        'punchline_requests_total{method="POST",route="/v1/completions",status="200"}': 1,
        'punchline_requests_total{method="POST",route="/v1/completions",status="404"}': 1,
        'punchline_requests_total{method="",route="none",status="404"}': 1,
        'punchline_requests_total{method="GET",route="/v1/models/{model_id:path}",status="404"}': 2,
        'punchline_tokens_total{kind="completion",model="tiny"}': 7,
        'punchline_tokens_total{kind="prompt",model="tiny"}': 5,
        'punchline_time_to_first_token_seconds_count{model="tiny"}': 1,
    }
    before = {sample: await metric(client, sample) for sample in samples}
    await complete(client, max_tokens=7, **NEVER_END)
    await refused(client, model="nope", prompt="a")
    for path in ("/what/ever", "/v1/models/x", "/v1/models/y"):
        async with client.get(path) as response:
            assert response.status == 404
    after = {sample: await metric(client, sample) for sample in samples}
    assert {sample: after[sample] - before[sample] for sample in samples} == samples


async def test_the_api_describes_itself(client: aiohttp.ClientSession) -> None:
    async with client.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    assert {"/v1/completions", "/v1/classify", "/v1/models", "/v1/files", "/v1/fine_tuning/jobs"} <= paths.keys()


async def test_the_openai_client_completes(openai_client: openai.AsyncOpenAI, client: aiohttp.ClientSession) -> None:
    fields = {"max_tokens": 12, "seed": 4, "n": 2}
    ours = await complete(client, **fields)
    theirs = await openai_client.completions.create(model="tiny", prompt="JOKE:", max_tokens=12, seed=4, n=2)
    assert [choice.text for choice in theirs.choices] == [choice["text"] for choice in ours["choices"]]
    assert theirs.usage is not None
    assert theirs.usage.prompt_tokens == 5


async def test_the_openai_client_streams(openai_client: openai.AsyncOpenAI) -> None:
    fields = {"model": "tiny", "prompt": "JOKE:", "max_tokens": 30, "seed": 4}
    whole = await openai_client.completions.create(**fields)  # type: ignore[call-overload]
    parts = await openai_client.completions.create(  # type: ignore[call-overload]
        **fields, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in parts]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_the_openai_client_lists_models_and_understands_refusals(openai_client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in openai_client.models.list()] == ["tiny", "long", "mood"]
    with pytest.raises(openai.NotFoundError, match="There is no model 'nope'"):
        await openai_client.completions.create(model="nope", prompt="a")
    with pytest.raises(openai.BadRequestError, match="temperature must be at most 2") as caught:
        await openai_client.completions.create(model="tiny", prompt="a", temperature=9)
    assert caught.value.param == "temperature"
