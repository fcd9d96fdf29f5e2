"""A Discord stand-in on 127.0.0.1: REST and gateway v10 for an unmodified discord.py, and a chat page to try it.

    page (browser) ──┐                                   ┌── discord.py
                     ├── REST /api/v10, gateway /gateway ┤
    tests (people) ──┘             world                 └── (base address redirected, nothing else)

`world` holds the state, `seed` fills it; `messages`, `commands`, `interactions` and `responses` change it and tell
`sessions`; `gateway` carries that to every connection; `rest_*` are the routes; `guard` stands in front of them.
`redirect` (not imported here, since it loads discord.py) points discord.py at it.
"""

from bot.playground.errors import PlaygroundError
from bot.playground.server import Identities, Playground

__all__ = ["Identities", "Playground", "PlaygroundError"]
