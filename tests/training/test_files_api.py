"""Uploads over HTTP: OpenAI's shapes, refusals with sentences, nothing but ids on the wire. No torch here."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from model_service.api import failures, files
from model_service.training.uploads import Uploads
from tests.support.training_jobs import jsonl, make_rows

GOOD = jsonl(make_rows(3))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    failures.install(app)
    app.include_router(files.router(Uploads(tmp_path / "files", max_file_bytes=10_000)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


async def upload(client: httpx.AsyncClient, content: bytes, **form: str) -> httpx.Response:
    fields = {"purpose": "fine-tune"} | form
    return await client.post("/v1/files", files={"file": ("jokes.jsonl", content)}, data=fields)


async def test_a_file_comes_back_as_openai_shows_it(client: httpx.AsyncClient, tmp_path: Path) -> None:
    created = (await upload(client, GOOD)).json()
    assert created["object"] == "file"
    assert created["purpose"] == "fine-tune"
    assert created["status"] == "processed"
    assert created["bytes"] == len(GOOD)
    assert created["filename"] == "jokes.jsonl"
    assert created["punchline"] == {"shape": "supervised", "num_rows": 3}
    assert (await client.get(f"/v1/files/{created['id']}")).json() == created
    assert (tmp_path / "files" / created["id"] / "content.jsonl").read_bytes() == GOOD


async def test_files_are_listed_in_pages(client: httpx.AsyncClient) -> None:
    ids = {(await upload(client, GOOD)).json()["id"] for _ in range(3)}
    first = (await client.get("/v1/files", params={"limit": 2})).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    rest = (await client.get("/v1/files", params={"limit": 2, "after": first["last_id"]})).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert {entry["id"] for entry in [*first["data"], *rest["data"]]} == ids
    unknown = await client.get("/v1/files", params={"after": "file-x"})
    assert unknown.status_code == 400


async def test_a_deleted_file_is_gone(client: httpx.AsyncClient, tmp_path: Path) -> None:
    file_id = (await upload(client, GOOD)).json()["id"]
    assert (await client.delete(f"/v1/files/{file_id}")).json() == {"id": file_id, "object": "file", "deleted": True}
    assert (await client.get(f"/v1/files/{file_id}")).status_code == 404
    assert list((tmp_path / "files").iterdir()) == []


async def test_a_broken_line_is_named_and_nothing_is_kept(client: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await upload(client, GOOD + b'{"prompt": "a"}\n')
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_file", "file")
    assert "Line 4" in error["message"]
    assert not (tmp_path / "files").exists()


async def test_a_file_over_the_limit_is_413(client: httpx.AsyncClient) -> None:
    answer = await upload(client, GOOD * 200)
    assert answer.status_code == 413
    assert "at most" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("form", "param"), [({"purpose": "assistants"}, "purpose"), ({"expires": "1"}, None)])
async def test_other_purposes_and_fields_are_refused(
    client: httpx.AsyncClient, form: dict[str, str], param: str | None
) -> None:
    answer = await upload(client, GOOD, **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "request_args",
    [
        {"data": {"purpose": "fine-tune"}},
        {"files": {"file": ("a", GOOD)}},
        {"json": {"file": "a"}},
        {"data": {"purpose": "fine-tune", "file": "not a file"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ],
)
async def test_half_a_form_is_a_400(client: httpx.AsyncClient, request_args: dict[str, Any]) -> None:
    answer = await client.post("/v1/files", **request_args)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("file_id", ["file-0", "..%2F..%2Fetc", "file-" + "g" * 24, "%00", "file-" + "0" * 24])
async def test_only_ids_name_files(client: httpx.AsyncClient, file_id: str) -> None:
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"/v1/files/{file_id}")).status_code == 404
