"""Makes the FastAPI app from its parts. Nothing is read from the environment, nothing is started.

CountRequests ─> RequireKey (TCP only) ─> LimitBody ─> routes ─> failures (every error in OpenAI's shape)
"""

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI

from model_service.api import classify, completions, failures, health, models
from model_service.api.gate import CountRequests, LimitBody, RequireKey
from model_service.api.metrics import Metrics
from model_service.config import ServiceSettings
from model_service.placement.pool import Pool
from model_service.training.uploads import MAX_FILE_BYTES

BODY_LIMIT_BYTES = 4 * 2**20  # 128 prompts of a 2,048-token context fit
FILE_LIMIT_BYTES = MAX_FILE_BYTES + 2**16  # with the form around it


def create_app(
    pool: Pool,
    *,
    service: ServiceSettings,
    remove: models.Remove,
    extra_routers: Iterable[APIRouter] = (),
) -> FastAPI:
    """Return the app over a pool.

    remove: deletes a tuned model's files. extra_routers: further parts of the API, with their state in closures.
    A key in `service.api_key` is asked of everyone; over a Unix socket there is usually none.
    """
    app = FastAPI(title="Punchline model service", docs_url=None, redoc_url=None, redirect_slashes=False)
    metrics = Metrics(pool)
    failures.install(app)
    app.include_router(health.router(pool, metrics))
    app.include_router(models.router(pool, remove))
    num_sequences, limit_s = service.max_num_seqs + service.max_queue, service.answer_limit_s
    app.include_router(completions.router(pool, metrics, max_sequences=num_sequences, limit_s=limit_s))
    app.include_router(classify.router(pool, max_queue=service.max_queue))
    for router in extra_routers:
        app.include_router(router)
    app.add_middleware(LimitBody, limit_bytes=BODY_LIMIT_BYTES, limits_by_path={"/v1/files": FILE_LIMIT_BYTES})
    if service.api_key is not None:
        app.add_middleware(RequireKey, key=service.api_key.get_secret_value())
    app.add_middleware(CountRequests, metrics=metrics)  # added last, so it is the outermost
    return app
