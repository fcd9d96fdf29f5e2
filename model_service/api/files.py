"""`/v1/files`: training files come in by upload and are named by id. No torch here."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile

from model_service.api.paging import After, Limit, page
from model_service.errors import RequestRefused
from model_service.training.uploads import Uploads

Json = dict[str, Any]
FORM_FIELDS = {"file", "purpose"}


def router(uploads: Uploads) -> APIRouter:
    """Make the routes over a files folder."""
    routes = APIRouter()

    @routes.post("/v1/files")
    async def upload(request: Request, file: UploadFile, purpose: Annotated[str, Form()]) -> Json:
        """Check a file and keep it; a broken line refuses all of it."""
        if unknown := sorted((await request.form()).keys() - FORM_FIELDS):
            raise RequestRefused(f"There is no field {unknown[0][:64]!a} here.", code="unknown_parameter")
        if purpose != "fine-tune":
            raise RequestRefused('purpose must be "fine-tune".', param="purpose")
        if (file.size or 0) > uploads.max_file_bytes:
            raise uploads.too_large()
        content = await file.read()
        return file_object(await asyncio.to_thread(uploads.add, file.filename or "", content))

    @routes.get("/v1/files")
    def list_files(limit: Limit = 1000, after: After = None) -> Json:
        """List the files, newest first."""
        return page([file_object(record) for record in uploads.list()], limit, after)

    @routes.get("/v1/files/{file_id}")
    def get_file(file_id: str) -> Json:
        """Describe a file."""
        return file_object(uploads.get(file_id))

    @routes.delete("/v1/files/{file_id}")
    def delete_file(file_id: str) -> Json:
        """Delete a file; jobs that were started with it keep what they need."""
        uploads.delete(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    return routes


def file_object(record: Json) -> Json:
    """Write a file as OpenAI does, with what is in it under `punchline`."""
    return {
        "id": record["id"],
        "object": "file",
        "bytes": record["bytes"],
        "created_at": record["created_at"],
        "filename": record["filename"],
        "purpose": "fine-tune",
        "status": "processed",
        "punchline": {"shape": record["shape"], "num_rows": record["num_rows"]},
    }
