import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot import service_wire as wire
from bot.errors import (
    BotError,
    ModelFailed,
    ModelLoading,
    ModelMissing,
    QueueFull,
    RequestFailed,
    ServiceUnavailable,
    TextTooLong,
    TooFewJokes,
    TooSlow,
)
from bot.service_client import CompletionRequest, CompletionStream, DeviceMemory, ServiceClient, Timeouts, Update
from tests.support.fake_service import Die, Fail, FakeService, Loading, Queue, Until, device

REQUEST = CompletionRequest("jokes-mini", "JOKE:", stop=("\n",), user="7")


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with FakeService() as service:
        yield service


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(service.socket_path, timeouts=Timeouts(idle_s=0.3, call_s=2)) as client:
        yield client


async def read(stream: CompletionStream) -> list[Update]:
    return [update async for update in stream]


def text_of(updates: list[Update]) -> str:
    return "".join(update.text for update in updates)


async def test_a_completion_arrives_whole_with_its_finish_reason(service: FakeService, client: ServiceClient) -> None:
    async with client.complete(REQUEST) as stream:
        updates = await read(stream)
    assert text_of(updates) == "Why not?"
    assert updates[-1].finish_reason == "stop"
    [body] = service.bodies("/v1/completions")
    assert body["stream"] is True
    assert body["stop"] == ["\n"]
    assert "seed" not in body


async def test_a_busy_reader_finds_everything_merged_into_one_update(
    service: FakeService, client: ServiceClient
) -> None:
    service.answer = [f"{n} " for n in range(50)]
    async with client.complete(REQUEST) as stream:
        assert stream._reader is not None
        await asyncio.wait([stream._reader], timeout=5)  # all of it is there before the first look
        updates = await read(stream)
    assert len(updates) == 1
    assert updates[0].text.split() == [str(n) for n in range(50)]


async def test_places_in_the_queue_and_loading_arrive_before_the_text(
    service: FakeService, client: ServiceClient
) -> None:
    go, on = asyncio.Event(), asyncio.Event()
    service.answer = [Queue(3, 4.2), Until(go), Loading("gpt2-xl", 43), Until(on), "Hi"]
    async with client.complete(REQUEST) as stream:
        waiting = await anext(stream)
        assert (waiting.position, waiting.eta_s, waiting.text) == (3, 4.2, "")
        go.set()
        assert (await anext(stream)).loading == wire.Loading("gpt2-xl", 43)
        on.set()
        update = await anext(stream)
        assert (update.position, update.loading, update.text) == (None, None, "Hi")


@pytest.mark.parametrize(
    ("comment", "loading"),
    [
        ("loading gpt2-xl 43 %", wire.Loading("gpt2-xl", 43)),
        ("loading gpt2-xl 43%", wire.Loading("gpt2-xl", 43)),
        ("loading gpt2-xl 99.6 %", wire.Loading("gpt2-xl", 99)),
        ("loading my model 2 7 %", wire.Loading("my model 2", 7)),
        ("loading gpt2-xl", wire.Loading("gpt2-xl")),
        ("loading", wire.Loading()),
        ("keep-alive", None),
    ],
)
def test_a_comment_says_what_is_being_loaded(comment: str, loading: wire.Loading | None) -> None:
    assert wire.waiting(comment).loading == loading


async def test_devices_are_read_where_the_service_names_them(service: FakeService, client: ServiceClient) -> None:
    assert (await client.inventory()).devices == ()
    service.devices = [device("cuda:0", 8, 2.5)]
    found = await client.inventory()
    assert found.devices == (DeviceMemory("cuda:0", 8 * 2**30, 5 * 2**29),)
    assert list(found.models) == await client.models() == service.models
    service.devices = [{"name": "cuda:0"}]
    with pytest.raises(ServiceUnavailable, match="could not read"):
        await client.inventory()


async def test_leaving_the_block_closes_the_connection(service: FakeService, client: ServiceClient) -> None:
    service.answer = ["so", Until(asyncio.Event())]
    async with client.complete(REQUEST) as stream:
        assert (await anext(stream)).text == "so"
    await service.until_left()


async def test_cancel_ends_the_loop_after_what_already_came(service: FakeService, client: ServiceClient) -> None:
    service.answer = ["so", Until(asyncio.Event())]
    async with client.complete(REQUEST) as stream:
        assert (await anext(stream)).text == "so"
        stream.cancel()
        assert await read(stream) == []


async def test_an_abandoned_wait_for_news_loses_nothing(service: FakeService, client: ServiceClient) -> None:
    go = asyncio.Event()
    service.answer = [Until(go), "late"]
    async with client.complete(REQUEST) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(stream)
        go.set()
        assert text_of(await read(stream)) == "late"


@pytest.mark.parametrize("end", [Die(), Fail("The model stopped while it was answering.", "engine_dead")])
async def test_a_service_that_dies_mid_answer_leaves_the_text_and_says_so(
    service: FakeService, client: ServiceClient, end: object
) -> None:
    service.answer = ["half ", "a", end]
    got = []

    async def reading() -> None:
        async with client.complete(REQUEST) as stream:
            async for update in stream:
                got.append(update.text)  # noqa: PERF401 - the error comes after some of it

    with pytest.raises(ServiceUnavailable):
        await reading()
    assert "".join(got) == "half a"


async def test_silence_longer_than_the_limit_is_too_slow(service: FakeService, client: ServiceClient) -> None:
    service.answer = ["one", Until(asyncio.Event())]
    async with client.complete(REQUEST) as stream:
        with pytest.raises(TooSlow, match=r"0\.3 seconds"):
            await read(stream)
    await service.until_left()


async def test_nobody_at_the_socket_is_service_unavailable(tmp_path: Path) -> None:
    async with ServiceClient(tmp_path / "none.sock") as client:
        with pytest.raises(ServiceUnavailable, match="offline right now"):
            await client.models()
        with pytest.raises(ServiceUnavailable):
            async with client.complete(REQUEST):
                pass
        assert not await client.ready()


@pytest.mark.parametrize(
    ("status", "code", "kind", "sentence"),
    [
        (429, "queue_full", QueueFull, "Too many people are asking right now. Try again in 7 seconds."),
        (503, "model_loading", ModelLoading, "as the service says Try again in 7 seconds."),
        (503, "model_failed", ModelFailed, "as the service says. `/models` shows the others."),
        (503, "no_room", ModelFailed, "as the service says. `/models` shows the others."),
        (404, "model_not_found", ModelMissing, "as the service says"),
        (400, "context_length_exceeded", TextTooLong, "as the service says"),
        (400, "too_few_examples", TooFewJokes, "as the service says"),
        (503, "engine_dead", ServiceUnavailable, "as the service says"),
        (400, "invalid_value", RequestFailed, "as the service says"),
    ],
)
async def test_a_refusal_is_the_error_that_says_what_people_need(
    service: FakeService, client: ServiceClient, status: int, code: str, kind: type[BotError], sentence: str
) -> None:
    service.refuse("/v1/completions", status, "as the service says", code, retry_after_s=7)
    with pytest.raises(kind, match=sentence):
        async with client.complete(REQUEST):
            pass


async def test_a_refusal_in_no_known_shape_still_is_a_sentence(service: FakeService, client: ServiceClient) -> None:
    service.refusals["/v1/models"] = (418, {"detail": "teapot"}, {})
    with pytest.raises(RequestFailed, match="status 418"):
        await client.models()


async def test_a_restarted_service_is_found_again(service: FakeService, client: ServiceClient) -> None:
    assert await client.ready()
    await service.stop()
    assert not await client.ready()
    await service.start()
    assert await client.ready()
    async with client.complete(REQUEST) as stream:
        assert text_of(await read(stream)) == "Why not?"


async def test_a_mood_has_its_probabilities_in_label_order(client: ServiceClient) -> None:
    mood = await client.classify("sentiment-mini", "I love this")
    assert (mood.label, mood.probs) == ("positive", (0.03, 0.07, 0.9))


async def test_a_fine_tune_goes_from_upload_to_cancel(service: FakeService, client: ServiceClient) -> None:
    rows = [{"id": "1", "prompt": "JOKE:", "completion": " Ümlaut\n"}]
    file_id = await client.upload_file(rows)
    assert service.files[file_id] == '{"id": "1", "prompt": "JOKE:", "completion": " Ümlaut\\n"}\n'
    job = await client.create_job("jokes-mini", file_id, "42", {"guild_id": "42"})
    [body] = service.bodies("/v1/fine_tuning/jobs")
    assert body["method"] == {"type": "supervised", "supervised": {"adapter": "lora"}}
    assert body["suffix"] == "42"
    assert (await client.job(job["id"]))["status"] == "queued"
    assert await client.job_events(job["id"])
    assert (await client.cancel_job(job["id"]))["status"] == "cancelled"


async def test_over_tcp_the_key_is_sent_and_never_shown() -> None:
    client = ServiceClient(base_url="http://127.0.0.1:1", api_key="sesame")
    assert "sesame" not in repr(client)
    with pytest.raises(ServiceUnavailable):
        await client.models()
    assert client._session is not None
    assert client._session.headers["Authorization"] == "Bearer sesame"
    await client.close()
