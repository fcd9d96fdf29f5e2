"""A scripted model service on a real Unix socket, speaking the contract's HTTP and SSE. No model, no torch.

    async with FakeService() as service:
        service.answer = [Queue(2, 3.5), "Why", Until(event), " not?"]      # the next completions play this

It exists for what a real model cannot be made to do on demand: wait, die mid-answer, refuse, pass or fail a gate.
"""

import asyncio
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Queue:
    """The request waits at this place."""

    position: int
    eta_s: float


@dataclass(frozen=True, slots=True)
class Until:
    """Nothing more comes before the event is set."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Loading:
    """The model is being loaded; without a percentage as an older service says it."""

    model: str = "jokes-mini"
    percent: int | None = None


class Die:
    """The connection breaks without an end."""


@dataclass(frozen=True, slots=True)
class Fail:
    """An error in the middle of the stream."""

    message: str
    code: str


class FakeService:
    """Answers as told. `requests` has every body received, by path; `cancelled` counts streams the client left."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pl"))  # short: socket paths stop at 107 bytes
        self.socket_path = self.folder / "s.sock"
        self.answer: list[object] = ["Why", " not", "?"]
        self.answers: dict[str, list[object]] = {}  # by model, instead of `answer`
        self.next_answers: list[list[object]] = []  # for one completion each, before those
        self.refusals: dict[str, tuple[int, Json, dict[str, str]]] = {}  # by path, or by model
        self.classifying: asyncio.Event | None = None  # no mood is read before it is set
        self.probs = [0.03, 0.07, 0.9]
        self.models: list[Json] = [card("jokes-mini"), card("sentiment-mini", task="classify")]
        self.devices: list[Json] = []  # none: as an older service, or another server of this API
        self.ready = True
        self.requests: list[tuple[str, Json]] = []
        self.files: dict[str, str] = {}
        self.file_cards: dict[str, Json] = {}
        self.deleted_files: list[str] = []
        self.jobs: dict[str, Json] = {}
        self.events: dict[str, list[Json]] = {}  # by job, newest first
        self.cancelled = 0
        self.streaming = asyncio.Event()
        self._left = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        shutil.rmtree(self.folder)

    async def start(self) -> None:
        """Listen on the socket."""
        application = web.Application(middlewares=[self._refusing])
        application.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/classify", self._classify),
                web.get("/v1/models", self._list_models),
                web.get("/health/ready", self._get_ready),
                web.post("/v1/files", self._upload),
                web.get("/v1/files", self._list_files),
                web.delete("/v1/files/{id}", self._delete_file),
                web.delete("/v1/models/{id:.+}", self._delete_model),
                web.post("/v1/fine_tuning/jobs", self._create_job),
                web.get("/v1/fine_tuning/jobs", self._list_jobs),
                web.get("/v1/fine_tuning/jobs/{id}", self._get_job),
                web.get("/v1/fine_tuning/jobs/{id}/events", self._events),
                web.post("/v1/fine_tuning/jobs/{id}/{change:cancel|pause|resume}", self._change_job),
            ]
        )
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket_path)).start()

    async def stop(self) -> None:
        """Stop listening; whoever calls finds nobody."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until_left(self, timeout_s: float = 5.0) -> None:
        """Wait until a client has left a running stream."""
        async with asyncio.timeout(timeout_s):
            await self._left.wait()

    def bodies(self, path: str) -> list[Json]:
        """What was sent to a path, in order."""
        return [body for at, body in self.requests if at == path]

    def refuse(self, where: str, status: int, message: str, code: str, retry_after_s: int | None = None) -> None:
        """Refuse every request to a path, or for a model."""
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self.refusals[where] = (status, {"error": {"message": message, "code": code, "type": "", "param": ""}}, headers)

    @web.middleware
    async def _refusing(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body: Json = {}
        if request.content_type == "application/json" and request.can_read_body:
            body = await request.json()
        self.requests.append((request.path, body))
        for where in (request.path, str(body.get("model"))):
            if where in self.refusals:
                status, error, headers = self.refusals[where]
                return web.json_response(error, status=status, headers=headers)
        response: web.StreamResponse = await handler(request)
        return response

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streaming.set()
        try:
            model = str((await request.json()).get("model"))
            steps = self.next_answers.pop(0) if self.next_answers else self.answers.get(model, self.answer)
            for step in list(steps):
                if not await self._play(step, response, request):
                    return response
            await _send(response, {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            self._left.set()
            raise
        return response

    async def _play(self, step: object, response: web.StreamResponse, request: web.Request) -> bool:
        match step:
            case str():
                await _send(response, {"choices": [{"index": 0, "text": step, "finish_reason": None}]})
            case Queue():
                await response.write(f": queue position={step.position} eta_s={step.eta_s}\n\n".encode())
            case Loading():
                how_far = "" if step.percent is None else f" {step.percent} %"
                await response.write(f": loading {step.model}{how_far}\n\n".encode())
            case Until():
                await step.event.wait()
            case Fail():
                await _send(response, {"error": {"message": step.message, "code": step.code}})
                return False
            case Die():
                assert request.transport is not None
                request.transport.abort()
                return False
        return True

    async def _classify(self, request: web.Request) -> web.Response:
        if self.classifying is not None:
            await self.classifying.wait()
        labels = ("negative", "neutral", "positive")
        label = labels[self.probs.index(max(self.probs))]
        return web.json_response({"data": [{"index": 0, "label": label, "probs": self.probs, "num_classes": 3}]})

    async def _list_models(self, request: web.Request) -> web.Response:
        devices = {"devices": self.devices} if self.devices else {}
        return web.json_response({"object": "list", "data": self.models, **devices})

    async def _get_ready(self, request: web.Request) -> web.Response:
        return web.json_response({}, status=200 if self.ready else 503)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "fine-tune"
        file = form["file"]
        assert isinstance(file, web.FileField)
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = file.file.read().decode()
        self.file_cards[file_id] = {"id": file_id, "filename": file.filename, "created_at": int(time.time())}
        return web.json_response({"id": file_id})

    async def _list_files(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.file_cards.values())})

    async def _delete_file(self, request: web.Request) -> web.Response:
        self.deleted_files.append(request.match_info["id"])
        self.file_cards.pop(request.match_info["id"], None)
        return web.json_response({"id": request.match_info["id"], "deleted": True})

    async def _delete_model(self, request: web.Request) -> web.Response:
        model = request.match_info["id"]
        if all(card["id"] != model for card in self.models):
            error = {"message": f"There is no model {model}.", "code": "model_not_found"}
            return web.json_response({"error": error}, status=404)
        self.models = [card for card in self.models if card["id"] != model]
        return web.json_response({"id": model, "deleted": True})

    async def _create_job(self, request: web.Request) -> web.Response:
        job_id = f"ftjob-{len(self.jobs) + 1}"
        self.jobs[job_id] = {"id": job_id, "status": "queued", "fine_tuned_model": None, "error": None, "punchline": {}}
        self.jobs[job_id]["hyperparameters"] = {"n_epochs": 12, "batch_size": 16}
        self.jobs[job_id] |= {key: (await request.json()).get(key) for key in ("method", "metadata")}
        return web.json_response(self.jobs[job_id])

    async def _list_jobs(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.jobs.values())[::-1]})

    async def _get_job(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return web.json_response({"error": {"message": "There is no such job.", "code": "not_found"}}, status=404)
        return web.json_response(job)

    async def _events(self, request: web.Request) -> web.Response:
        events = self.events.get(request.match_info["id"], [{"message": "Job created", "data": None}])
        return web.json_response({"object": "list", "data": events[: int(request.query.get("limit", 20))]})

    async def _change_job(self, request: web.Request) -> web.Response:
        status = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}[request.match_info["change"]]
        self.jobs[request.match_info["id"]]["status"] = status
        return web.json_response(self.jobs[request.match_info["id"]])


def card(model_id: str, task: str = "generate", state: str = "ready", **more: Any) -> Json:
    """A model as `GET /v1/models` shows it; `more` changes its fields."""
    return {
        "id": model_id,
        "object": "model",
        "created": 0,
        "owned_by": "punchline",
        "task": task,
        "device_map": {"layers 0-5": "cpu"} if state == "ready" else {},
        "bytes": 11_800_000,
        "weights": "float32",
        "state": state,
        "error": None,
        "device_bytes": {"cpu": 20 * 2**20},
        "why": "it fits whole on cpu",
        "progress": None,
        "pinned": False,
        **more,
    }


def device(name: str, total_gib: float, used_gib: float) -> Json:
    """A device as `GET /v1/models` shows it."""
    return {"name": name, "total_bytes": int(total_gib * 2**30), "used_bytes": int(used_gib * 2**30)}


async def _send(response: web.StreamResponse, payload: Json) -> None:
    await response.write(f"data: {json.dumps(payload)}\n\n".encode())
