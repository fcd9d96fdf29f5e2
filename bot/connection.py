"""Opens the bot's connection to the model service as the settings say: Unix socket, or TCP with its key."""

import asyncio

from bot.service_client import ServiceClient, Timeouts
from model_service.config import CommonSettings

CONNECT_TIMEOUT_S = 3.0


def connect(settings: CommonSettings, timeouts: Timeouts | None = None) -> ServiceClient:
    """Return a client for the configured service; nothing is sent yet. Close it when done."""
    service, timeouts = settings.service, timeouts or Timeouts()
    if service.host is None:
        return ServiceClient(socket_path=settings.socket_path, timeouts=timeouts)
    host = f"[{service.host}]" if ":" in service.host else service.host
    key = service.api_key.get_secret_value() if service.api_key else None
    return ServiceClient(base_url=f"http://{host}:{service.port}", api_key=key, timeouts=timeouts)


def address(settings: CommonSettings) -> str:
    """Name where the service is expected, for people."""
    service = settings.service
    return str(settings.socket_path) if service.host is None else f"{service.host}:{service.port}"


async def listening(settings: CommonSettings) -> bool:
    """Say whether anybody accepts connections there."""
    service = settings.service
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if service.host is None:
                _, writer = await asyncio.open_unix_connection(settings.socket_path)
            else:
                _, writer = await asyncio.open_connection(service.host, service.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def until_ready(settings: CommonSettings) -> None:
    """Wait until every start-up model of the service answers; without a limit of its own."""
    async with connect(settings) as client:
        while not await client.ready():  # noqa: ASYNC110 - only the service knows
            await asyncio.sleep(0.1)
