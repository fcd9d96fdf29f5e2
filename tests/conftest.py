"""Loads `audioop` before warnings become errors: discord.py imports it, and before Python 3.13 that alone warns."""

import contextlib
import warnings

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop  # noqa: F401
