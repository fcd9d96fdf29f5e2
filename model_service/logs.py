"""Sets up logging for a whole process, the same way in the bot and in the service.

One line per event on stderr: `2026-01-31 20:15:02 INFO model_service.server: ready after 2.1 s`.
People's text appears at DEBUG only. Whatever looks like a Discord token is blanked out at every level.
"""

import logging
import re
import sys

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%d %H:%M:%S"

_TOKEN = re.compile(r"[\w-]{23,28}\.[\w-]{6,7}\.[\w-]{27,}")
_CHATTY = ("aiosqlite", "asyncio", "discord.gateway", "discord.http", "filelock", "fsspec", "httpcore", "httpx")


class OneLine(logging.Formatter):
    """Formats a record on one line (a traceback below it), without tokens."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return _TOKEN.sub("[token]", super().format(record))


def configure(*, verbose: bool = False) -> None:
    """Send this process's log to stderr: INFO and above, or DEBUG with people's text if `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(LINE, TIME))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
