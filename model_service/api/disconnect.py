"""Ends work whose client has gone away: nobody reads the answer, so nobody should compute it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499  # nobody reads it, but the metrics count it


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; if the client goes away first, cancel it, let it clean up, and raise ClientGone.

    receive: the request's, its body read already.
    """
    task = asyncio.create_task(work, name="answer")
    gone = asyncio.create_task(_gone(receive), name="watch-client")
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, gone})
    if task.cancelled():
        raise ClientGone
    return task.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
