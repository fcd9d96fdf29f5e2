"""`/health/live`: the process answers. `/health/ready`: every start-up model does. `/metrics`: for Prometheus."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.responses import Response

from model_service.api.metrics import Metrics
from model_service.placement.pool import Pool

RETRY_AFTER_S = 2


def router(pool: Pool, metrics: Metrics) -> APIRouter:
    """Make the routes."""
    routes = APIRouter()

    @routes.get("/health/live")
    async def live() -> dict[str, str]:
        """Answer whenever the process is alive, models or not."""
        return {"status": "live"}

    @routes.get("/health/ready", response_model=None)
    async def ready() -> Response:
        """Answer 200 when every start-up model answers, else 503 with the missing ones and why."""
        missing = pool.missing()
        if not missing:
            return JSONResponse({"status": "ready"})
        waiting = {"status": "not ready", "missing": missing}
        return JSONResponse(waiting, status_code=503, headers={"Retry-After": str(RETRY_AFTER_S)})

    @routes.get("/metrics", response_model=None)
    async def show_metrics() -> Response:
        """Return all counters."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
