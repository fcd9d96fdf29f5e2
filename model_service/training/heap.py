"""Keeps what a step frees for the next one, instead of giving it back to the system and faulting it in again.

A step on the CPU frees and takes gigabytes of gradients and activations, whose pages the kernel would clear each time.
"""

import ctypes
import logging

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and never to shrink that; false elsewhere: nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    kept = bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
    log.debug("freed memory is kept: %s", kept)
    return kept
