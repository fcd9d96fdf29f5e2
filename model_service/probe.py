"""Asks a running service with nothing but the standard library: for container health checks and for `plan`."""

import asyncio
import json

from model_service.config import CommonSettings


async def ready(settings: CommonSettings, timeout_s: float = 4.0) -> bool:
    """Say whether `/health/ready` answers 200; False also when nobody answers within `timeout_s`."""
    return await _get(settings, "/health/ready", timeout_s) is not None


async def held_bytes(settings: CommonSettings, timeout_s: float = 4.0) -> dict[str, int]:
    """Return what the models of the running service take, by device; nothing when nobody answers."""
    body = await _get(settings, "/v1/models", timeout_s)
    try:
        devices = json.loads(body or "{}").get("devices") or []
    except ValueError:  # something else listens there
        return {}
    return {str(device["name"]): int(device["used_bytes"]) for device in devices}


async def _get(settings: CommonSettings, path: str, timeout_s: float) -> bytes | None:
    """Return the body of an answer with status 200, else None."""
    service = settings.service
    key = f"Authorization: Bearer {service.api_key.get_secret_value()}\r\n" if service.api_key else ""
    request = f"GET {path} HTTP/1.1\r\nHost: model-service\r\nConnection: close\r\n{key}\r\n"
    try:
        async with asyncio.timeout(timeout_s):
            if service.host is None:
                reader, writer = await asyncio.open_unix_connection(settings.socket_path)
            else:
                reader, writer = await asyncio.open_connection(service.host, service.port)
            writer.write(request.encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
    except (OSError, TimeoutError):
        return None
    return body if head.split()[1:2] == [b"200"] else None  # HTTP/1.1 200 OK
