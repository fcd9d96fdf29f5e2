"""Runs the service: opens the socket, answers at once, loads the models behind it, and leaves cleanly.

bind socket ─> answer /health/live ─> load models one by one (service.preload; else when asked for) ─> ready
SIGTERM ─> no new connections ─> streams get `grace_s` to end ─> engines closed ─> socket file gone ─> exit 0
"""

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from model_service.api import files, fine_tuning
from model_service.api.app import create_app
from model_service.config import CommonSettings
from model_service.held_models import needed_models, tuned_models
from model_service.http_protocol import LimitedHttp
from model_service.listening import CannotListen, tcp_socket, unix_socket
from model_service.models.folder import holds_adapter
from model_service.placement.load import loader, planner
from model_service.placement.plan import PlanRefused
from model_service.placement.planner import DevicePlanner
from model_service.placement.pool import Pool
from model_service.training import registry, said
from model_service.training.jobs import Jobs
from model_service.training.uploads import Uploads

log = logging.getLogger(__name__)

GRACE_S = 4.0  # containers are killed 10 s after SIGTERM
LAST_LINES_S = 1.0  # after the streams were ended, for what they still say to go out


async def serve(settings: CommonSettings, *, grace_s: float = GRACE_S) -> None:
    """Serve until SIGTERM or SIGINT. grace_s: what running streams get then to end by themselves.

    Ends the process with one sentence when the address cannot be used.
    """
    try:
        with listen(settings) as sock:
            await _serve_on(sock, settings, grace_s)
    except CannotListen as error:
        raise SystemExit(str(error)) from error


def listen(settings: CommonSettings) -> AbstractContextManager[socket.socket]:
    """Open what the settings say: a TCP port with a key, or the Unix socket. Raises CannotListen on entering."""
    service = settings.service
    if service.host is not None and service.port is not None:
        return tcp_socket(service.host, service.port)
    return unix_socket(settings.socket_path)


async def _serve_on(sock: socket.socket, settings: CommonSettings, grace_s: float) -> None:
    models = settings.home / "models"
    service = settings.service
    needed, tuned = needed_models(settings), tuned_models(models)
    rooms = planner(
        settings, (*needed, *(spec for spec in tuned if holds_adapter(Path(spec.source))))
    )  # these need a base
    pool = Pool(loader(service), rooms, load_limit_s=service.load_limit_s, max_waiting=service.max_queue)
    pool.expect(needed, tuned)

    async def remove(model_id: str) -> None:
        await asyncio.to_thread(said.forget, settings.home / "jobs", model_id)
        await asyncio.to_thread(registry.remove, models, model_id)  # last: as long as it is there, it can be deleted

    jobs = Jobs(settings.home, settings.training, pool, busy=lambda: pool.busy)
    uploads = Uploads(settings.home / "files")
    routers = (files.router(uploads), fine_tuning.router(jobs, uploads))
    app = create_app(pool, service=service, remove=remove, extra_routers=routers)
    server = _Server(app, grace_s, on_stop=jobs.close, after_grace=pool.close)
    await jobs.start()
    pool.start(preload=service.preload)
    watching = asyncio.create_task(pool.watch(), name="watch-engines")
    looking = asyncio.create_task(asyncio.to_thread(look_around, rooms), name="look-at-devices")
    log.info("listening on %s", sock.getsockname())
    try:
        with server.stopping_on_signals():
            await server.serve(sockets=[sock])
    finally:
        watching.cancel()
        await asyncio.wait([watching, looking])
        await asyncio.gather(jobs.close(), pool.close())
    log.info("stopped")


def look_around(rooms: DevicePlanner) -> None:
    """Find the devices before anybody asks for a model, so that `/v1/models` shows them. Blocks."""
    try:
        rooms.together()
    except PlanRefused as error:  # whoever asks for a model hears it, too
        log.warning("%s", error)


Step = Callable[[], Awaitable[None]]


class _Server(uvicorn.Server):
    """uvicorn, but signals are ours, and what outlives the grace is ended: first streams, then connections.

    on_stop: begun with the shutdown. after_grace: ends the streams that are still open then.
    """

    def __init__(self, app: FastAPI, grace_s: float, *, on_stop: Step, after_grace: Step) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=LimitedHttp,
                lifespan="off",
                proxy_headers=False,  # nobody stands between a client and us
                ws="none",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                timeout_graceful_shutdown=math.ceil(grace_s + LAST_LINES_S) + 1,  # never reached
            )
        )
        self._grace_s, self._on_stop, self._after_grace = grace_s, on_stop, after_grace

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn would raise the signal again at the end, and exit with it instead of 0."""
        yield

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, also as PID 1, which ignores signals without a handler; at once on the second."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        log.info("%s: stopping", number.name)
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections, let streams end within the grace, then end them and whatever is left."""
        ending = asyncio.create_task(self._end_after_grace(), name="end-streams")
        try:
            await asyncio.gather(super().shutdown(sockets), self._on_stop())
        finally:
            ending.cancel()
            await asyncio.wait([ending])

    async def _end_after_grace(self) -> None:
        await asyncio.sleep(self._grace_s)
        await self._after_grace()
        await asyncio.sleep(LAST_LINES_S)
        for connection in list(self.server_state.connections):  # half a request, or nobody reads the answer
            connection.transport.abort()
