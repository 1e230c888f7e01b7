"""Keeps freed memory in the process: pages that were given back fault again in every CPU step."""

import ctypes
import sys

# Numbers of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc to keep large buffers that are freed; must be called before JAX starts.

    A compiled step allocates and frees the same hundreds of megabytes each time, which glibc maps
    and unmaps by default. With the memory kept, the step on two cores is about a sixth faster.
    Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # a Linux without glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never
    mallopt(M_ARENA_MAX, 1)
