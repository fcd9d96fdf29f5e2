"""Pages of a list, as OpenAI cuts them: `limit` entries that come after the id `after`. No torch here."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query

from model_service.errors import RequestRefused

Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(max_length=100)]


def page(entries: Sequence[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    """Return one page as the wire has it. Raises RequestRefused when no entry has the id `after`."""
    start = 0
    if after is not None:
        start = next((i for i, entry in enumerate(entries, start=1) if entry["id"] == after), 0)
        if not start:
            raise RequestRefused("after must be the id of an entry of this list.", param="after")
    data = list(entries[start : start + limit])
    return {
        "object": "list",
        "data": data,
        "has_more": start + limit < len(entries),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
