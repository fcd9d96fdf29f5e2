"""Loads `audioop` before warnings become errors: discord.py imports it, and on Python 3.11 and 3.12 that alone warns."""

import contextlib
import warnings

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop  # noqa: F401
