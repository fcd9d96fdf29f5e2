"""Asks a running service whether it is ready, with nothing but the standard library: for container health checks."""

import asyncio

from model_service.config import CommonSettings


async def ready(settings: CommonSettings, timeout_s: float = 4.0) -> bool:
    """Say whether `/health/ready` answers 200; False also when nobody answers within `timeout_s`."""
    service = settings.service
    key = f"Authorization: Bearer {service.api_key.get_secret_value()}\r\n" if service.api_key else ""
    request = f"GET /health/ready HTTP/1.1\r\nHost: model-service\r\nConnection: close\r\n{key}\r\n"
    try:
        async with asyncio.timeout(timeout_s):
            if service.host is None:
                reader, writer = await asyncio.open_unix_connection(settings.socket_path)
            else:
                reader, writer = await asyncio.open_connection(service.host, service.port)
            writer.write(request.encode())
            status_line = await reader.readline()  # HTTP/1.1 200 OK
            writer.close()
    except (OSError, TimeoutError):
        return False
    return status_line.split()[1:2] == [b"200"]
