"""Reads what the routes need out of a request, and writes their answers, in one way for all."""

import json
import re
from typing import Any

from aiohttp import web

from bot.playground.drafts import Draft
from bot.playground.errors import ApiError, FormError, unauthorized, unknown
from bot.playground.files import Upload
from bot.playground.shapes import check_shape
from bot.playground.world import Channel, User, World

Json = dict[str, Any]

MAX_BODY_BYTES = 110 * 1024 * 1024  # ten files of ten megabytes, and their form


def answer(content: Any, status: int = 200) -> web.Response:
    """JSON whose content type is exactly `application/json`, as discord.py compares it."""
    return web.Response(body=json.dumps(content).encode(), status=status, content_type="application/json")


def nothing() -> web.Response:
    """204: done, and nothing to say."""
    return web.Response(status=204)


def refused(error: ApiError) -> web.Response:
    """Discord's error object."""
    return answer(error.body(), error.status)


def caller(world: World, request: web.Request) -> User:
    """The account in the Authorization header: `Bot <token>` for the bot, the bare token for a person."""
    header = request.headers.get("Authorization", "")
    is_bot = header.startswith("Bot ")
    user = world.user_by_token(header.removeprefix("Bot "))
    if user is None or user.bot is not is_bot:
        raise unauthorized()
    return user


def number(request: web.Request, name: str) -> int:
    """A snowflake in the path, else 50035."""
    text = request.match_info[name]
    if not text.isdecimal():
        raise FormError(name, "NUMBER_TYPE_COERCE", f'Value "{text}" is not snowflake.')
    return int(text)


def channel_of(world: World, request: web.Request) -> Channel:
    """The channel in the path, else 10003."""
    channel = world.channel(number(request, "channel_id"))
    if channel is None:
        raise unknown("Channel")
    return channel


def query_number(request: web.Request, name: str) -> int | None:
    """An optional number in the query."""
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise FormError(name, "NUMBER_TYPE_COERCE", f'Value "{text}" is not int.')
    return int(text)


async def json_body(request: web.Request) -> Any:
    """The JSON of the body: an object or a list of objects, else 50109."""
    return parse_json(await request.read() or b"{}")


def parse_json(text: bytes | str) -> Any:
    """JSON whose fields have the types Discord gives them."""
    try:
        return check_shape(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, 50109, "The request body contains invalid JSON.") from error


async def json_object(request: web.Request) -> Json:
    """The JSON object of the body, else 50109."""
    return _object(await json_body(request))


async def draft_body(request: web.Request) -> Draft:
    """A body that may come with files: JSON, or a form with `payload_json` and `files[n]`."""
    if request.content_type != "multipart/form-data":
        return Draft(await json_object(request))
    body: Json = {}
    uploads: list[Upload] = []
    async for part in await request.multipart():
        name = getattr(part, "name", None) or ""
        if name == "payload_json":
            body = _object(parse_json(await part.read(decode=True)))  # type: ignore[union-attr]
        elif found := re.fullmatch(r"files?\[?(\d*)\]?", name):
            index = found[1] or str(len(uploads))
            content = bytes(await part.read(decode=False))  # type: ignore[union-attr]
            uploads.append(Upload(index, part.filename or "unknown", content))  # type: ignore[union-attr]
    return Draft(body, uploads)


def _object(body: Any) -> Json:
    if not isinstance(body, dict):
        raise ApiError(400, 50109, "The request body contains invalid JSON.")
    return body
