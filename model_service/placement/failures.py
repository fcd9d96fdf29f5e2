"""What follows a load that failed: why, in a line, and whether and when it is worth trying again. No torch here.

Out of memory, or files that could not be fetched just now: tried again when somebody asks, after a pause that
doubles with each failure. A torn file or a wrong setting stays wrong: the same sentence until somebody loads anew.
"""

from time import monotonic

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
FORGIVEN_S = 600.0  # whoever has run that long starts anew
MEMORY_WORDS = ("out of memory", "allocate memory", "not enough memory")
# by name, since torch and the hub's client are not imported here
PASSING = ("OutOfMemoryError", "LocalEntryNotFoundError", "NoRoom")  # the second: not in the cache, and the hub is away
LASTING = ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "RemoteEntryNotFoundError")


class Backoff:
    """How often something failed, and when it may be tried again."""

    def __init__(self) -> None:
        self.num_failures = 0
        self._next = 0.0

    def failed(self) -> None:
        """Count a failure; the pause begins."""
        pause_s: float = min(FIRST_PAUSE_S * 2**self.num_failures, LONGEST_PAUSE_S)
        self.num_failures = min(self.num_failures + 1, 32)
        self._next = monotonic() + pause_s

    def forgive(self) -> None:
        """Start anew."""
        self.num_failures, self._next = 0, 0.0

    @property
    def remaining_s(self) -> float:
        """Seconds until it may be tried again; 0 if it may."""
        return max(0.0, self._next - monotonic())


def reason_of(error: BaseException) -> str:
    """Say in one line why a load failed."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_transient(error: BaseException | None) -> bool:
    """Whether the same load may succeed later: memory was short, or a file could not be fetched."""
    while error is not None:
        names = [kind.__name__ for kind in type(error).__mro__]
        if any(name in PASSING for name in names):
            return True
        if any(name in LASTING for name in names):
            return False
        if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)):
            return False
        if isinstance(error, (MemoryError, OSError)) or type(error).__module__.startswith("httpx"):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
