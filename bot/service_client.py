"""Calls the model service over its Unix socket (or TCP with a key): completions, moods, models, files, training jobs.

    async with client.complete(CompletionRequest("jokes-mini", "JOKE:")) as stream:   # the request runs from here on
        async for update in stream:                                                   # leaving the block cancels it
            ...

Every wait has a limit (`Timeouts`), every failure is a `BotError`: no connection or a broken one is
`ServiceUnavailable`, a refusal is `RequestFailed` or one of its kinds, a limit reached is `TooSlow`.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from bot.errors import BotError, ModelLoading, ServiceUnavailable, TooSlow
from bot.service_wire import (
    CompletionRequest,
    DeviceMemory,
    Inventory,
    Json,
    Mood,
    Update,
    chunk,
    inventory,
    refusal,
    user_key,
    waiting,
)

log = logging.getLogger(__name__)

SNAPSHOT = "punchline-snapshot.jsonl"  # the name of each upload, so that none is left behind
MOST_EVENTS = 1000  # the service's own limit; a run has about a hundred
Method = Literal["supervised", "dpo"]
Adapter = Literal["lora", "full"]
UNREADABLE = "The model answered something I could not read. Try again in a minute."

__all__ = [
    "CompletionRequest",
    "CompletionStream",
    "DeviceMemory",
    "Inventory",
    "Json",
    "Mood",
    "ServiceClient",
    "Timeouts",
    "Update",
    "user_key",
]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of every wait, in seconds."""

    connect_s: float = 5.0
    call_s: float = 30.0  # a whole short call
    upload_s: float = 120.0  # a whole upload
    idle_s: float = 60.0  # between two signs of life of a stream


class CompletionStream:
    """One running completion, read by its own task into a mailbox of one that merges while the bot is busy."""

    def __init__(self, client: "ServiceClient", request: CompletionRequest) -> None:
        self._client, self._request = client, request
        self._mail = _Mailbox()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Send the request; returns when the service has taken it, raises BotError when it has not."""
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(accepted), name="completion-reader")
        try:
            await accepted
        except BaseException:
            await self._end_reader()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection; what still runs is cancelled by that."""
        await self._end_reader()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Return all that came since the last read; safe to cancel."""
        return await self._mail.take()

    def cancel(self) -> None:
        """End the stream early, from anywhere: the reader's loop ends after what it already has."""
        self._mail.close(None)

    async def _end_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self, accepted: asyncio.Future[None]) -> None:
        """Feed the mailbox until the end of the stream; its error goes to whoever waits."""
        error: BotError | None = None
        try:
            async with self._client.streaming("/v1/completions", self._request.body()) as response:
                accepted.set_result(None)
                await self._feed(response.content)
        except BotError as failed:
            error = failed
            if not accepted.done():
                accepted.set_exception(failed)
        except Exception as bug:
            log.exception("reading a completion failed")
            error = ServiceUnavailable("The model's answer could not be read. Try again in a minute.")
            if not accepted.done():
                accepted.set_exception(bug)
        finally:
            self._mail.close(error)

    async def _feed(self, lines: AsyncIterable[bytes]) -> None:
        """Read SSE lines until `[DONE]`; raises ServiceUnavailable when they end before it."""
        async for raw in lines:
            line = raw.decode("utf-8", "replace").strip()
            if line.startswith(":"):
                self._mail.put(waiting(line[1:].strip()))
            elif line.startswith("data:"):
                payload = line.removeprefix("data:").strip()
                if payload == "[DONE]":
                    return
                self._mail.put(chunk(payload))
        raise ServiceUnavailable("The model stopped in the middle of its answer. Try again in a minute.")


class _Mailbox:
    """Holds one merged update. `put` never waits; `take` waits for news and ends with the stream's end or error."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._last: Update | None = None
        self._news = asyncio.Event()
        self._closed = False
        self._error: BotError | None = None

    def put(self, update: Update) -> None:
        if self._closed:
            return
        self._text.append(update.text)
        reason = update.finish_reason or (self._last.finish_reason if self._last else None)
        self._last = Update("", update.position, update.eta_s, update.loading, reason)
        self._news.set()

    def close(self, error: BotError | None) -> None:
        if not self._closed:
            self._closed, self._error = True, error
            self._news.set()

    async def take(self) -> Update:
        await self._news.wait()
        if self._last is not None:
            text, last = "".join(self._text), self._last
            self._text, self._last = [], None
            if not self._closed:
                self._news.clear()
            return Update(text, last.position, last.eta_s, last.loading, last.finish_reason)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


@dataclass
class ServiceClient:
    """The one way to the model service. Needs a running loop when first used; close it when done."""

    socket_path: Path | None = None
    base_url: str = "http://model-service"
    api_key: str | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    _session: aiohttp.ClientSession | None = field(default=None, init=False, repr=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; running completions end."""
        if self._session is not None:
            await self._session.close()

    def complete(self, request: CompletionRequest) -> CompletionStream:
        """Prepare a completion, to be used with `async with`."""
        return CompletionStream(self, request)

    async def classify(self, model: str, text: str) -> Mood:
        """Read the mood of one text; raises ModelLoading where the time was too short to load the model."""
        try:
            answer = await self._call("POST", "/v1/classify", {"model": model, "input": text})
        except TooSlow as error:
            card = next((card for card in await self.models() if card["id"] == model), {})
            if card.get("state") == "loading":
                raise ModelLoading(f"The model {model} is still loading.") from error
            raise
        entry = answer["data"][0]
        labels = answer.get("labels") or entry.get("labels") or ()
        return Mood(str(entry["label"]), tuple(float(p) for p in entry["probs"]), tuple(str(name) for name in labels))

    async def models(self) -> list[Json]:
        """List the models the service knows, each as its card, loaded or not."""
        return list((await self.inventory()).models)

    async def inventory(self) -> Inventory:
        """List the models, and the devices they lie on where the service tells."""
        answer = await self._call("GET", "/v1/models")
        try:
            return inventory(answer)
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable(UNREADABLE) from error

    async def ready(self) -> bool:
        """Say whether every start-up model answers; False also when nobody is there."""
        try:
            await self._call("GET", "/health/ready")
        except BotError:
            return False
        return True

    async def upload_file(self, rows: Iterable[Mapping[str, str]]) -> str:
        """Upload rows as JSONL for a fine-tune; returns the file's id."""
        content = await asyncio.to_thread(_jsonl, rows)
        form = aiohttp.FormData()
        form.add_field("purpose", "fine-tune")
        form.add_field("file", content, filename=SNAPSHOT, content_type="application/jsonl")
        answer = await self._call("POST", "/v1/files", form=form, limit_s=self.timeouts.upload_s)
        return str(answer["id"])

    async def uploads(self) -> list[Json]:
        """List what `upload_file` left at the service, with `id` and `created_at`; others' files are not told of."""
        found = (await self._call("GET", "/v1/files")).get("data") or []
        return [each for each in found if each.get("filename") == SNAPSHOT]

    async def delete_file(self, file_id: str) -> None:
        """Delete an upload; jobs keep the rows they were started with."""
        await self._call("DELETE", f"/v1/files/{file_id}")

    async def delete_model(self, model_id: str) -> None:
        """Delete a tuned model, files and all. Raises ModelMissing, or RequestFailed (409) while others run on it."""
        await self._call("DELETE", f"/v1/models/{model_id}")

    async def create_job(
        self,
        model: str,
        training_file: str,
        suffix: str,
        metadata: Mapping[str, str],
        *,
        n_epochs: int | None = None,
        method: Method = "supervised",
        adapter: Adapter = "lora",
    ) -> Json:
        """Start a fine-tune and return the job. n_epochs: None leaves it to the service.

        method: `supervised` trains on jokes, `dpo` on preferences. adapter: with `lora` servers share one model's
        memory, `full` makes a whole one.
        """
        how: Json = {"adapter": adapter}
        if n_epochs is not None:
            how["hyperparameters"] = {"n_epochs": n_epochs}
        chosen = {"type": method, method: how}
        body = {"model": model, "training_file": training_file, "suffix": suffix, "method": chosen}
        return await self._call("POST", "/v1/fine_tuning/jobs", {**body, "metadata": dict(metadata)})

    async def jobs(self) -> list[Json]:
        """List the newest jobs, whoever started them."""
        return list((await self._call("GET", f"/v1/fine_tuning/jobs?limit={MOST_EVENTS}"))["data"])

    async def job(self, job_id: str) -> Json:
        """Read one job, with its progress under `punchline`."""
        return await self._call("GET", f"/v1/fine_tuning/jobs/{job_id}")

    async def job_events(self, job_id: str) -> list[Json]:
        """List what happened to a job, newest first, steps and looks with their figures under `data`."""
        return list((await self._call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit={MOST_EVENTS}"))["data"])

    async def cancel_job(self, job_id: str) -> Json:
        """Ask a job to stop; returns the job."""
        return await self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")

    async def pause_job(self, job_id: str) -> Json:
        """Let a job rest at a checkpoint; returns the job."""
        return await self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/pause")

    async def resume_job(self, job_id: str) -> Json:
        """Let a paused job go on; returns the job."""
        return await self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/resume")

    async def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        form: aiohttp.FormData | None = None,
        limit_s: float | None = None,
    ) -> Json:
        """One short call: JSON in, JSON out."""
        limit_s = limit_s or self.timeouts.call_s
        timeout = aiohttp.ClientTimeout(total=limit_s, connect=self.timeouts.connect_s)
        async with self._request(method, path, timeout, limit_s, json=body, data=form) as response:
            answer = json.loads(await response.read() or b"{}")
            if not isinstance(answer, dict):
                raise ValueError("not a JSON object")
            return answer

    @asynccontextmanager
    async def streaming(self, path: str, body: Json) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a streamed answer; only the silence between two lines is limited."""
        limit_s = self.timeouts.idle_s
        timeout = aiohttp.ClientTimeout(total=None, connect=self.timeouts.connect_s, sock_read=limit_s)
        async with self._request("POST", path, timeout, limit_s, json=body) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, timeout: aiohttp.ClientTimeout, limit_s: float, **content: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Every request goes through here: the border where aiohttp's errors become ours."""
        try:
            async with self._opened().request(method, self.base_url + path, timeout=timeout, **content) as response:
                if response.status >= 400:
                    raise refusal(response.status, await response.read(), response.headers)
                yield response
        except TimeoutError as error:
            raise TooSlow(limit_s) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServiceUnavailable from error
        except (ValueError, KeyError) as error:
            raise ServiceUnavailable(UNREADABLE) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A restarted service leaves dead connections behind, and a POST on one is lost: one connection a request.
            connector: aiohttp.BaseConnector
            if self.socket_path is not None:
                connector = aiohttp.UnixConnector(str(self.socket_path), limit=0, force_close=True)
            else:
                connector = aiohttp.TCPConnector(limit=0, force_close=True)
            headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            self._session = aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False)
        return self._session


def _jsonl(rows: Iterable[Mapping[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
