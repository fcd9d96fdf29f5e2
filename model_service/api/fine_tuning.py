"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning jobs, with pause and resume. No torch here.

Each job carries a `punchline` object beside OpenAI's fields: step, loss, time left, the gate's verdict.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from model_service.api.paging import After, Limit, page
from model_service.api.training_schemas import JobRequest
from model_service.training.folder import JobFolder
from model_service.training.jobs import Jobs
from model_service.training.orders import Rows
from model_service.training.recipe import Method
from model_service.training.uploads import Uploads

Json = dict[str, Any]
JOBS = "/v1/fine_tuning/jobs"


def router(jobs: Jobs, uploads: Uploads) -> APIRouter:
    """Make the routes over the jobs and the files they are started with."""
    routes = APIRouter()

    @routes.post(JOBS)
    async def create(request: JobRequest) -> Json:
        """Queue a job."""
        order = request.order()
        by_method: dict[Method, Callable[[str, str], Rows]]
        by_method = {
            "supervised": uploads.supervised_rows,
            "classify": uploads.labelled_rows,
            "dpo": uploads.preferred_rows,
        }
        read = by_method[order.method]
        rows = await asyncio.to_thread(read, order.training_file, "training_file")
        validation = None
        if order.validation_file is not None:
            validation = await asyncio.to_thread(read, order.validation_file, "validation_file")
        return await describe(await jobs.create(order, rows, validation))

    @routes.get(JOBS)
    def list_jobs(limit: Limit = 20, after: After = None) -> Json:
        """List the jobs, newest first."""
        return page([job_object(folder) for folder in jobs.list()], limit, after)

    @routes.get(JOBS + "/{job_id}")
    def get_job(job_id: str) -> Json:
        """Describe a job."""
        return job_object(jobs.get(job_id))

    @routes.get(JOBS + "/{job_id}/events")
    def list_events(job_id: str, limit: Limit = 20, after: After = None) -> Json:
        """List what happened, newest first."""
        return page(jobs.get(job_id).events()[::-1], limit, after)

    @routes.get(JOBS + "/{job_id}/checkpoints")
    def list_checkpoints(job_id: str, limit: Limit = 10, after: After = None) -> Json:
        """List the looks at the held-out jokes, newest first; the best one is what the model is made of."""
        return page(checkpoint_objects(jobs.get(job_id)), limit, after)

    @routes.post(JOBS + "/{job_id}/cancel")
    async def cancel(job_id: str) -> Json:
        """End a job for good."""
        return await describe(await jobs.cancel(job_id))

    @routes.post(JOBS + "/{job_id}/pause")
    async def pause(job_id: str) -> Json:
        """Let a job rest at a checkpoint."""
        return await describe(await jobs.pause(job_id))

    @routes.post(JOBS + "/{job_id}/resume")
    async def resume(job_id: str) -> Json:
        """Queue a paused job again."""
        return await describe(await jobs.resume(job_id))

    return routes


async def describe(folder: JobFolder) -> Json:
    """Write a job, reading its files off the event loop."""
    return await asyncio.to_thread(job_object, folder)


def job_object(folder: JobFolder) -> Json:
    """Write a job as OpenAI does, with our own figures under `punchline`."""
    job, status = folder.job, folder.status
    request, recipe = job["request"], job["recipe"]
    hyperparameters = {
        "n_epochs": recipe["n_epochs"],
        "batch_size": recipe["batch_size"],
        "learning_rate_multiplier": request["learning_rate_multiplier"],
        "gradient_checkpointing": recipe.get("gradient_checkpointing", False),
    }
    method = request.get("method", "supervised")
    result = folder.result or {}
    return {
        "id": job["id"],
        "object": "fine_tuning.job",
        "model": request["model"],
        "created_at": job["created_at"],
        "finished_at": status.get("finished_at"),
        "fine_tuned_model": status.get("fine_tuned_model"),
        "organization_id": "punchline",
        "status": status["status"],
        "training_file": request["training_file"],
        "validation_file": request["validation_file"],
        "result_files": [],
        "trained_tokens": result.get("trained_tokens"),
        "error": status.get("error"),
        "suffix": request["suffix"] or None,
        "seed": recipe["seed"],
        "hyperparameters": hyperparameters,
        "method": {
            "type": method,
            method: {"adapter": recipe["adapter"], "hyperparameters": hyperparameters},
        },
        "metadata": request["metadata"],
        "punchline": figures(folder, job, status["status"], result),
    }


def figures(folder: JobFolder, job: Json, status: str, result: Json) -> Json:
    """Collect progress and outcome; what is not known yet is null."""
    progress, metrics = folder.progress, result.get("metrics", {})
    return {
        "step": progress.get("step"),
        "total_steps": progress.get("total_steps"),
        "loss": progress.get("loss"),
        "eta_s": progress.get("eta_s") if status == "running" else None,
        "val_loss_before": progress.get("val_loss_before"),
        "val_loss_after": metrics.get("val_loss_after"),
        "gate": result.get("gate"),
        "counts": progress.get("counts") or job["counts"],
        "disk_bytes": job["disk_bytes"],
        "metrics": metrics or None,
        "evaluation": result.get("evaluation"),
        "confusion": result.get("confusion"),
    }


def checkpoint_objects(folder: JobFolder) -> list[Json]:
    """Write each look at the held-out jokes as OpenAI's checkpoint; only the kept one can be asked for as a model."""
    best_step = (folder.result or {}).get("metrics", {}).get("best_step")
    model = folder.status.get("fine_tuned_model")
    looks = [e for e in folder.events() if e["data"] and "valid_loss" in e["data"] and e["data"]["step"]]
    return [
        {
            "id": f"ftckpt-{event['id'].removeprefix('ftevent-')}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": event["created_at"],
            "fine_tuning_job_id": folder.id,
            "fine_tuned_model_checkpoint": model if event["data"]["step"] == best_step else None,
            "step_number": event["data"]["step"],
            "metrics": {
                "step": event["data"]["step"],
                "valid_loss": event["data"]["valid_loss"],
                "general_loss": event["data"]["general_loss"],
            },
        }
        for event in reversed(looks)
    ]
