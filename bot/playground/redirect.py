"""Points discord.py at the playground, and back. The one place that knows which addresses it has."""

from collections.abc import Iterator
from contextlib import contextmanager

import yarl
from discord.asset import Asset
from discord.gateway import DiscordWebSocket
from discord.http import Route


@contextmanager
def redirect(base_url: str) -> Iterator[None]:
    """While the block runs, discord.py's REST, gateway and pictures are those of `base_url`.

    The addresses are class attributes of discord.py, so this holds for every client of the process.
    """
    before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY, Asset.BASE
    base = yarl.URL(base_url)
    Route.BASE = f"{base_url}/api/v10"
    DiscordWebSocket.DEFAULT_GATEWAY = base.with_scheme("ws") / "gateway/"
    Asset.BASE = base_url
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY, Asset.BASE = before
