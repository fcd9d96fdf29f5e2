"""`/v1/fine_tuning/jobs` over HTTP: OpenAI's shapes, and a sentence for everything that is refused. No torch here."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from model_service.api import failures, files, fine_tuning
from model_service.config import TrainingSettings
from model_service.training.jobs import Jobs
from model_service.training.uploads import Uploads
from tests.support.training_jobs import FakePool, fake_base, jsonl, make_rows

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The routes over jobs that nobody works off, so that they stay as they are."""
    app = FastAPI()
    failures.install(app)
    uploads = Uploads(tmp_path / "files")
    base = fake_base(tmp_path / "base")
    pool = FakePool({"tiny": base, "mood": base, "org/tiny": base}, tasks={"mood": "classify"})
    app.include_router(files.router(uploads))
    app.include_router(fine_tuning.router(Jobs(tmp_path, TrainingSettings(), pool), uploads))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


async def upload(client: httpx.AsyncClient, content: bytes) -> str:
    form = {"files": {"file": ("jokes.jsonl", content)}, "data": {"purpose": "fine-tune"}}
    return str((await client.post("/v1/files", **form)).json()["id"])  # type: ignore[arg-type]


async def create(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    if "training_file" not in fields:
        fields["training_file"] = await upload(client, jsonl(make_rows()))
    body = json.dumps({"model": "tiny"} | fields)  # httpx's own json= cannot send half a surrogate pair
    return await client.post(JOBS, content=body, headers={"content-type": "application/json"})


async def refusal(client: httpx.AsyncClient, **fields: Any) -> tuple[int, dict[str, Any]]:
    answer = await create(client, **fields)
    return answer.status_code, answer.json()["error"]


async def test_a_job_is_openais_with_our_figures_beside(client: httpx.AsyncClient) -> None:
    answer = await create(client, suffix="guild-1", seed=5, metadata={"guild": "1"})
    job = answer.json()
    assert answer.status_code == 200
    assert job["object"] == "fine_tuning.job"
    assert (job["status"], job["model"], job["suffix"], job["seed"]) == ("queued", "tiny", "guild-1", 5)
    assert job["metadata"] == {"guild": "1"}
    assert job["method"]["type"] == "supervised"
    assert job["method"]["supervised"]["adapter"] == "lora"
    assert job["hyperparameters"]["n_epochs"] >= 1
    assert (job["fine_tuned_model"], job["finished_at"], job["error"]) == (None, None, None)
    counts = job["punchline"].pop("counts")
    assert counts["train"] + counts["held_out"] == 100
    assert counts["duplicates"] == 0
    names = (
        "step",
        "total_steps",
        "loss",
        "eta_s",
        "val_loss_before",
        "val_loss_after",
        "gate",
        "metrics",
        "evaluation",
        "confusion",
    )
    assert 2**24 < job["punchline"].pop("disk_bytes") < 2**25
    assert job["punchline"] == dict.fromkeys(names)
    assert (await client.get(f"{JOBS}/{job['id']}")).json()["id"] == job["id"]


@pytest.mark.parametrize(
    "fields",
    [
        {"hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}},
        {
            "method": {
                "type": "supervised",
                "supervised": {
                    "adapter": "full",
                    "hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5},
                },
            }
        },
    ],
)
async def test_hyperparameters_may_stand_in_either_place(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    job = (await create(client, **fields)).json()
    given = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    assert job["hyperparameters"] == {**given, "gradient_checkpointing": False}
    assert job["method"]["supervised"]["hyperparameters"] == job["hyperparameters"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "mood"}, "model", "its task is classify"),
        ({"model": 3}, "model", "must be a text"),
        ({"epochs": 3}, "epochs", "There is no parameter"),
        ({"suffix": "../../x"}, "suffix", "letters, digits"),
        ({"suffix": ""}, "suffix", "letters, digits"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"seed": 2**31}, "seed", "below"),
        ({"seed": 1.5}, "seed", "whole number"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", '"auto" or a whole number from 1 to 100'),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "whole number"),
        ({"hyperparameters": {"batch_size": 1000}}, "hyperparameters.batch_size", "from 1 to 256"),
        ({"hyperparameters": {"beta": 1}}, "hyperparameters.beta", "There is no parameter"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 0}},
            "hyperparameters.learning_rate_multiplier",
            "number above 0",
        ),
        ({"method": {"type": "classify", "supervised": {}}}, "method", "do not belong to its type, which is classify"),
        ({"hyperparameters": {"gradient_checkpointing": 1}}, "hyperparameters.gradient_checkpointing", "true or false"),
        ({"method": {"type": "dpo"}}, "training_file", "needs rows with prompt, chosen and rejected"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}},
            "method.dpo.hyperparameters.beta",
            "number above 0, at most 2",
        ),
        ({"method": {"type": "magic"}}, "method.type", "must be"),
        ({"method": {"supervised": {"adapter": "huge"}}}, "method.supervised.adapter", "must be"),
        (
            {"hyperparameters": {}, "method": {"supervised": {"hyperparameters": {}}}},
            "hyperparameters",
            "once: at the top or under method.supervised",
        ),
        ({"metadata": {"a": 1}}, "metadata", "object of texts"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "16 entries"),
        ({"metadata": {"a": "\ud800"}}, "metadata", "surrogate"),
        ({"training_file": "\ud800"}, "training_file", ""),
    ],
)
async def test_each_wrong_field_is_named_with_its_limit(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    status, error = await refusal(client, **fields)
    assert status in (400, 404)
    assert words in error["message"]
    assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "nobody"}, "model"),
        ({"training_file": "file-" + "0" * 24}, "file_id"),
        ({"training_file": "../files"}, "file_id"),
        ({"validation_file": "file-" + "0" * 24}, "file_id"),
    ],
)
async def test_what_is_not_there_is_a_404(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    status, error = await refusal(client, **fields)
    assert (status, error["param"]) == (404, param)


async def test_too_few_jokes_are_refused_with_the_numbers(client: httpx.AsyncClient) -> None:
    file_id = await upload(client, jsonl(make_rows(40)))
    status, error = await refusal(client, training_file=file_id)
    assert (status, error["code"], error["param"]) == (400, "too_few_examples", "training_file")
    assert "at least 50 and 20 are needed" in error["message"]


async def test_a_validation_file_is_what_the_model_is_judged_by(client: httpx.AsyncClient) -> None:
    rows = make_rows()
    training, validation = await upload(client, jsonl(rows[:70])), await upload(client, jsonl(rows[70:]))
    job = (await create(client, training_file=training, validation_file=validation)).json()
    assert job["validation_file"] == validation
    assert (job["punchline"]["counts"]["train"], job["punchline"]["counts"]["held_out"]) == (70, 30)


async def test_a_file_of_another_shape_is_refused(client: httpx.AsyncClient) -> None:
    file_id = await upload(client, b'{"text": "great", "label": "positive"}\n' * 100)
    status, error = await refusal(client, training_file=file_id)
    assert (status, error["code"]) == (400, "wrong_file_shape")
    assert "classify file" in error["message"]


async def test_a_classifier_is_trained_on_texts_with_labels_from_any_model(client: httpx.AsyncClient) -> None:
    lines = [{"text": f"text {label} {i}", "label": label} for label in ("good", "bad") for i in range(60)]
    file_id = await upload(client, "".join(json.dumps(line) + "\n" for line in lines).encode())
    method = {"type": "classify", "classify": {"adapter": "full", "hyperparameters": {"n_epochs": 2}}}
    for model in ("tiny", "mood"):
        job = (await create(client, model=model, training_file=file_id, method=method)).json()
        assert job["method"]["type"] == "classify"
        assert job["method"]["classify"]["adapter"] == "full"
        assert job["method"]["classify"]["hyperparameters"]["n_epochs"] == 2
        assert job["punchline"]["counts"]["contradictions"] == 0
    status, error = await refusal(client, method=method)
    assert (status, error["code"]) == (400, "wrong_file_shape")
    assert "a classifier needs rows with text and label" in error["message"]


async def test_a_hub_models_slash_does_not_become_a_folder(client: httpx.AsyncClient, tmp_path: Path) -> None:
    job = (await create(client, model="org/tiny")).json()
    assert job["model"] == "org/tiny"
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [job["id"]]


async def test_jobs_are_listed_newest_first_in_pages(client: httpx.AsyncClient) -> None:
    ids = [(await create(client)).json()["id"] for _ in range(3)]
    first = (await client.get(JOBS, params={"limit": 2})).json()
    assert [job["id"] for job in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"] is True
    rest = (await client.get(JOBS, params={"limit": 2, "after": ids[1]})).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert (await client.get(JOBS, params={"limit": 0})).status_code == 400


async def test_a_job_is_paused_resumed_and_cancelled_and_says_so_in_its_events(client: httpx.AsyncClient) -> None:
    job_id = (await create(client)).json()["id"]
    for action, expected in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert (await client.post(f"{JOBS}/{job_id}/{action}")).json()["status"] == expected
    again = await client.post(f"{JOBS}/{job_id}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "job_ended")
    events = (await client.get(f"{JOBS}/{job_id}/events")).json()
    *later, first = [event["message"] for event in events["data"]]
    assert later == ["The job was cancelled.", "The job is queued again.", "The job is paused at step 0."]
    assert re.fullmatch(
        rf"Created fine-tuning job: {job_id}. It needs at most 17 MiB of disk; [\d,]+ MiB are free.", first
    )
    assert events["data"][0].keys() >= {"id", "object", "created_at", "level", "message", "type"}
    assert (await client.get(f"{JOBS}/{job_id}/checkpoints")).json()["data"] == []


@pytest.mark.parametrize("route", ["", "/events", "/checkpoints"])
async def test_a_job_that_is_not_there_is_a_404(client: httpx.AsyncClient, route: str) -> None:
    answer = await client.get(f"{JOBS}/ftjob-{'0' * 16}{route}")
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "fine_tuning_job_id"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b'{"model": "tiny"}', b"null"])
async def test_half_a_request_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


async def test_a_preference_file_starts_a_job_and_no_other_method_takes_it(client: httpx.AsyncClient) -> None:
    lines = [
        {"prompt": "JOKE:", "chosen": row.completion, "rejected": f" Buy {i}!", "id": row.id}
        for i, row in enumerate(make_rows())
    ]
    file_id = await upload(client, "".join(json.dumps(line) + "\n" for line in lines).encode())
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2}}}
    job = (await create(client, training_file=file_id, method=method)).json()
    assert job["method"]["type"] == "dpo"
    assert job["method"]["dpo"]["adapter"] == "lora"
    assert job["hyperparameters"]["n_epochs"] == 2
    counts = job["punchline"]["counts"]
    assert counts["train"] + counts["held_out"] + counts["duplicates"] == 100
    status, error = await refusal(client, training_file=file_id)
    assert (status, error["code"]) == (400, "wrong_file_shape")
    assert "is a dpo file" in error["message"]
