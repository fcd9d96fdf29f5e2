"""Ends a child process when its parent is gone, however the parent died.

The parent holds the write end of the child's stdin and never writes. A kill -9 closes it like any other
end does, so the child sees end of file: no signal to lose, no process id to be reused, on any Unix.
"""

import os
import signal
import threading
import time

GRACE_S = 10.0


def end_with_parent(grace_s: float = GRACE_S) -> None:
    """Watch stdin on a thread; at its end send this process SIGTERM, and SIGKILL `grace_s` later."""
    threading.Thread(target=_watch, args=(grace_s,), name="lifeline", daemon=True).start()


def _watch(grace_s: float) -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)  # the process normally ends within this
    os.kill(os.getpid(), signal.SIGKILL)
