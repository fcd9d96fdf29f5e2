"""`/v1/models`: which models there are, where their layers lie, and letting go of tuned ones."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict

from fastapi import APIRouter

from model_service.api.schemas import DeviceCard, ModelCard, ModelDeleted, ModelList
from model_service.errors import Conflict
from model_service.placement.entry import Held
from model_service.placement.pool import Pool

Remove = Callable[[str], Awaitable[None]]  # deletes a tuned model's folder


def router(pool: Pool, remove: Remove) -> APIRouter:
    """Make the routes. Ids hold ':' and may hold '/', so they take the rest of the path."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def list_models() -> ModelList:
        """List every model, ready or not, and the devices they share."""
        devices = [DeviceCard(**asdict(device)) for device in pool.devices()]
        return ModelList(data=[card(held) for held in pool.describe()], devices=devices)

    @routes.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> ModelCard:
        """Describe one model."""
        return card(pool.find(model_id))

    @routes.delete("/v1/models/{model_id:path}")
    async def delete_model(model_id: str) -> ModelDeleted:
        """Stop answering under a tuned model's name, finish what it began, and delete its files."""
        if not pool.find(model_id).tuned:
            raise Conflict(f"{model_id} is one of the configured models: take it out of the settings instead.")
        await pool.unload(model_id)
        await remove(model_id)
        return ModelDeleted(id=model_id)

    return routes


def card(held: Held) -> ModelCard:
    """Write a model as the wire has it."""
    return ModelCard(
        id=held.id,
        created=held.created,
        owned_by="community" if held.tuned else "punchline",
        task=held.task,
        device_map=held.device_map,
        device_bytes=held.device_bytes,
        bytes=held.size_bytes,
        weights=held.weights,
        state=held.state,
        progress=held.progress,
        pinned=held.pinned,
        why=held.why,
        error=held.error,
    )
