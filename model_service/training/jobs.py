"""Runs training jobs, one at a time, each in a child process that serving does not notice. No torch here.

    queued ──> running ──> succeeded          cancel: from queued, running, paused
      ^ └──────┬─┘ └─────> failed             a dead child is started again from its newest checkpoint
      │        v                              a dead service finds its jobs in their folders
      └───── paused

A job is a folder (`training.folder`); all there is in memory is the child that runs right now.
"""

import asyncio
import logging
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from model_service.config import ModelSettings, TrainingSettings
from model_service.errors import Conflict, ModelNoRoom, NotFound, RequestRefused, ServiceError
from model_service.training import registry
from model_service.training.child import STOP_LIMIT_S, Child, describe_exit
from model_service.training.folder import FINAL, JobFolder
from model_service.training.orders import Order, Rows, start_of, write_job
from model_service.training.serving import Pool
from model_service.training.worker import DONE
from model_service.training.yielding import showing

log = logging.getLogger(__name__)

MAX_RESTARTS = 2  # without a newer checkpoint in between
CHECKPOINT_EVERY_S = 30.0
SETTLE_LIMIT_S = 10.0  # from the end of a child to the status that says so; a large model takes longer to load
NOTE_AGAIN_S = 5.0
CLOSE_LIMIT_S = 15.0  # whoever stops the service waits 25 s; an older checkpoint is there if this is not enough
_ID = re.compile(r"ftjob-[0-9a-f]{16}")


Spawn = Callable[[JobFolder], Awaitable[Child]]


class Jobs:
    """All jobs under `<home>/jobs`. `start` takes up what an earlier service left; `close` leaves it resumable."""

    def __init__(
        self,
        home: Path,
        settings: TrainingSettings,
        pool: Pool,
        *,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        stop_limit_s: float = STOP_LIMIT_S,
        settle_limit_s: float = SETTLE_LIMIT_S,
        spawn: Spawn | None = None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take them up with `start`. busy: whether people are being answered, so that a run steps aside."""
        home = home.resolve()  # the child is given whole paths
        self._folder, self._models = home / "jobs", home / "models"
        self._pool, self._busy = pool, busy
        self._stop_limit_s, self._settle_limit_s = stop_limit_s, settle_limit_s
        self._spawn = spawn or (lambda folder: Child.start(folder, self._models, settings, checkpoint_every_s))
        self._changing = asyncio.Lock()  # held while a status goes from one to the next
        self._work = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._current: str | None = None
        self._child: Child | None = None
        self._settled = asyncio.Event()
        self._wish: Literal["cancelled", "paused"] | None = None

    async def start(self) -> None:
        """Queue the jobs that were running when the last service ended, and begin to work."""
        await asyncio.to_thread(self._recover)
        self._runner = asyncio.create_task(self._run_queue(), name="training-jobs")

    async def close(self) -> None:
        """Stop the child at a checkpoint; the next `start` goes on from there."""
        if self._runner is not None:
            self._stop_limit_s = min(self._stop_limit_s, CLOSE_LIMIT_S)
            self._runner.cancel()
            await asyncio.wait([self._runner])

    async def create(self, order: Order, rows: Rows, validation: Rows | None = None) -> JobFolder:
        """Queue a job. Raises ModelNotFound, ModelLoading, RequestRefused with what to change."""
        task = self._pool.find(order.model).task
        if task != "generate" and order.method != "classify":
            raise RequestRefused(
                f"The model {order.model!a} cannot be fine-tuned on jokes: its task is {task}, not generate.",
                param="model",
                code="wrong_task",
            )
        start = start_of(order.model, self._models, self._pool.folder)
        folder = await asyncio.to_thread(write_job, self._folder, order, start, rows, validation)
        self._work.set()
        log.info("job %s queued: %s, %s, from %s", folder.id, order.method, order.adapter, order.model)
        return folder

    def get(self, job_id: str) -> JobFolder:
        """Return a job's folder. Raises NotFound."""
        path = self._folder / job_id
        if not _ID.fullmatch(job_id) or not (path / "job.json").exists():
            raise NotFound(f"There is no fine-tuning job {job_id[:60]!a}.", param="fine_tuning_job_id")
        return JobFolder(path)

    def list(self) -> list[JobFolder]:
        """Return every job, newest first."""
        folders = [JobFolder(path) for path in self._folder.glob("ftjob-*")]
        return sorted(folders, key=lambda folder: int(folder.job["order"]), reverse=True)

    async def cancel(self, job_id: str) -> JobFolder:
        """End a job for good. Raises NotFound, Conflict when it has ended already."""
        return await self._stop(job_id, "cancelled")

    async def pause(self, job_id: str) -> JobFolder:
        """Let a job rest at a checkpoint, so that others may run. Raises NotFound, Conflict."""
        return await self._stop(job_id, "paused")

    async def resume(self, job_id: str) -> JobFolder:
        """Queue a paused job again. Raises NotFound, Conflict when it is not paused."""
        folder = self.get(job_id)
        async with self._changing:
            status = folder.status["status"]
            if status != "paused":
                raise Conflict(f"Job {job_id} is {status}; only a paused job can be resumed.", code="not_paused")
            await self._change(folder, "The job is queued again.", status="queued")
        self._work.set()
        return folder

    async def _stop(self, job_id: str, wish: Literal["cancelled", "paused"]) -> JobFolder:
        """Bring a job to rest, whatever it does; a running one has stopped when this returns."""
        folder = self.get(job_id)
        async with self._changing:
            status = folder.status["status"]
            if status in FINAL or status == wish:
                raise Conflict(f"Job {job_id} has already {ENDED[status]}.", code="job_ended")
            if job_id != self._current:
                await self._rest(folder, wish)
                return folder
            if self._wish != "cancelled":  # who cancels a job does not find it paused
                self._wish = wish
            child, settled = self._child, self._settled
        if child is not None:
            await child.stop(self._stop_limit_s)
        try:
            async with asyncio.timeout(self._settle_limit_s):
                await settled.wait()
        except TimeoutError:
            raise Conflict(f"Job {job_id} has just ended; its model is being loaded.", code="job_ended") from None
        return folder

    async def _rest(self, folder: JobFolder, wish: Literal["cancelled", "paused"]) -> None:
        if wish == "cancelled":
            await asyncio.to_thread(self._drop, folder)
            await self._change(folder, "The job was cancelled.", status=wish, finished_at=int(time.time()))
        else:
            await self._change(folder, f"The job is paused at step {folder.latest_step()}.", status=wish)

    def _recover(self) -> None:
        registry.end_removals(self._models)
        for aside in self._folder.glob(".aside-*"):
            shutil.rmtree(aside)
        for folder in self.list():
            folder.end_torn_line()
            if folder.status["status"] == "running":
                folder.change_status(status="queued")
                folder.add_event(f"The service was restarted; the job goes on from step {folder.latest_step()}.")

    def _next_queued(self) -> JobFolder | None:
        return next((f for f in reversed(self.list()) if f.status["status"] == "queued"), None)

    async def _run_queue(self) -> None:
        while True:
            self._work.clear()
            folder = await asyncio.to_thread(self._next_queued)
            if folder is None:
                await self._work.wait()
                continue
            try:
                await self._run(folder)
            except Exception as error:  # one job's folder may be broken in any way; the next job must still run
                log.exception("job %s could not be run", folder.id)
                await self._give_up(folder, f"The job could not be run: {error}")

    async def _give_up(self, folder: JobFolder, message: str) -> None:
        """Note that a job failed, as soon as that can be noted: a full disk must not end the queue."""
        while True:
            try:
                return await self._fail(folder, message, "internal_error")
            except OSError as error:
                log.error("job %s: its end cannot be noted: %s", folder.id, error)
                await asyncio.sleep(NOTE_AGAIN_S)

    async def _run(self, folder: JobFolder) -> None:
        """Take a job from queued to wherever it ends."""
        async with self._changing:
            if folder.status["status"] != "queued":
                return
            started = folder.status.get("started_at") or int(time.time())
            await self._change(folder, "The job is running.", status="running", started_at=started)
            self._current, self._wish, self._settled = folder.id, None, asyncio.Event()
        try:
            await self._attend(folder)
        finally:
            self._current = None
            self._settled.set()

    async def _attend(self, folder: JobFolder) -> None:
        """Keep a child at work until the job is done, gives up, is stopped, or has died too often."""
        restarts = 0
        while folder.result is None and self._wish is None:
            step_before = folder.latest_step()
            code = await self._run_child(folder)
            if failure := folder.failure:  # its exit code is torchrun's where there are several processes
                return await self._fail(folder, failure["message"], failure["code"])
            if code == DONE or self._wish is not None:
                continue
            restarts = 1 if folder.latest_step() > step_before else restarts + 1
            log.warning("job %s: its process died: %s", folder.id, describe_exit(code))
            if restarts > MAX_RESTARTS:
                died = (
                    f"The training process died {restarts} times without getting further; last, {describe_exit(code)}."
                )
                return await self._fail(folder, f"{died} The old model is untouched.", "worker_died")
            folder.add_event(
                f"The training process died: {describe_exit(code)}. Going on from step {folder.latest_step()}.",
                level="warn",
            )
        if folder.result is not None:
            return await self._adopt(folder)
        async with self._changing:
            if self._wish is not None:
                await self._rest(folder, self._wish)

    async def _run_child(self, folder: JobFolder) -> int:
        """Run one child to its end; leaving early (the service stops) ends it at a checkpoint."""
        async with showing(folder.path, self._busy):
            child = await self._spawn(folder)
            log.info("job %s runs as process %d", folder.id, child.pid)
            self._child = child
            try:
                if self._wish is not None:  # it came while the process was being started
                    return await child.stop(self._stop_limit_s)
                return await child.wait()
            finally:
                self._child = None
                await child.stop(self._stop_limit_s)

    async def _adopt(self, folder: JobFolder) -> None:
        """Let the finished model answer under its name."""
        result = folder.result
        assert result is not None
        model_id = str(result["fine_tuned_model"])
        source = self._models / registry.folder_name(model_id)
        try:
            task = registry.task_of(result)
            await self._pool.load(ModelSettings(name=model_id, source=str(source.resolve()), task=task))
        except ModelNoRoom as error:
            folder.add_event(f"{error} It is loaded when somebody asks for it.")
        except ServiceError as error:
            message = f"The model is trained, but could not be loaded: {error}"
            return await self._fail(folder, message, "model_load_failed", model_id)
        await asyncio.to_thread(folder.clean)
        for reason in result["gate"]["reasons"]:
            folder.add_event(reason)
        verdict = "It passed the gate." if result["gate"]["passed"] else "It did not pass the gate."
        await self._change(
            folder,
            f"New fine-tuned model created: {model_id}. {verdict}",
            status="succeeded",
            finished_at=int(time.time()),
            fine_tuned_model=model_id,
        )

    async def _fail(self, folder: JobFolder, message: str, code: str, model_id: str | None = None) -> None:
        """Give a job up. model_id: the model it has made all the same, so that somebody can delete it."""
        await asyncio.to_thread(self._drop, folder, model_id)
        error = {"message": message, "code": code, "param": None}
        changes = {"finished_at": int(time.time()), "error": error, "fine_tuned_model": model_id}
        await self._change(folder, message, "error", status="failed", **changes)

    def _drop(self, folder: JobFolder, model_id: str | None = None) -> None:
        """Keep nothing of what a job has learned but the model, if it has made one."""
        folder.clean()
        if model_id is None:
            registry.remove_made_by(self._models, folder.id)

    async def _change(self, folder: JobFolder, message: str, level: str = "info", **changes: Any) -> None:
        """Write a new status and say so, in the events and in the log."""
        folder.add_event(message, level=level)  # first: who sees the status finds the event
        await asyncio.to_thread(folder.change_status, **changes)
        log.info("job %s: %s", folder.id, changes["status"])


ENDED = {"succeeded": "succeeded", "failed": "failed", "cancelled": "been cancelled", "paused": "been paused"}
