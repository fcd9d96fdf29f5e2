"""Amounts of memory as people write them: `10GiB`, `8 GB`, `512MiB`. No torch here."""

import re

UNITS = {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def read_size(text: str) -> int:
    """Return the bytes of `10GiB` (2^30 each) or `10GB` (10^9 each). Raises ValueError with how to write it."""
    found = _SIZE.fullmatch(text.strip())
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or not float(found[1]):
        raise ValueError(f"{text.strip()!r} is no amount of memory: write it like 10GiB, 8GB, 512MiB or 512MB")
    return int(float(found[1]) * unit)


def gib(size_bytes: float) -> str:
    """Write bytes for people: `3.2 GiB`, `87 MiB`."""
    if abs(size_bytes) < 1 << 30:
        return f"{size_bytes / (1 << 20):.0f} MiB"
    return f"{size_bytes / (1 << 30):.1f} GiB"
