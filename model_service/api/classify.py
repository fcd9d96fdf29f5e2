"""`POST /v1/classify`: texts in, a label and probabilities each out."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_service.api.disconnect import CLIENT_CLOSED_REQUEST, ClientGone, while_connected
from model_service.api.schemas import Classification, Classified, ClassifyRequest, Usage
from model_service.errors import QueueFull
from model_service.placement.loaded import Labeller
from model_service.placement.pool import Pool


def router(pool: Pool, *, max_queue: int) -> APIRouter:
    """Make the route. max_queue: requests that may wait for their turn."""
    routes = APIRouter()
    num_waiting = 0

    @routes.post("/v1/classify", response_model=None)
    async def classify(body: ClassifyRequest, request: Request) -> Classification | Response:
        """Label texts; `probs` are in label-id order. Waits for the model if it is not loaded."""
        try:
            return await while_connected(request.receive, answer(body))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def answer(body: ClassifyRequest) -> Classification:
        nonlocal num_waiting
        with pool.classifying(body.model) as visit:
            model = await visit.model()
            if num_waiting >= max_queue:
                raise QueueFull
            num_waiting += 1
            try:
                rows = await model.classify(body.input)
                num_tokens = await asyncio.to_thread(count_tokens, model, body.input)
            finally:
                num_waiting -= 1
            labelled = [label(index, probs, model.labels) for index, probs in enumerate(rows)]
        usage = Usage(prompt_tokens=num_tokens, completion_tokens=0, total_tokens=num_tokens)
        return Classification(model=body.model, data=labelled, usage=usage)

    return routes


def label(index: int, probs: list[float], labels: list[str]) -> Classified:
    """Name the likeliest label of one text."""
    best = max(range(len(probs)), key=probs.__getitem__)
    return Classified(index=index, label=labels[best], probs=probs, num_classes=len(probs))


def count_tokens(model: Labeller, texts: list[str]) -> int:
    """Count what the classifier read."""
    return sum(len(model.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
