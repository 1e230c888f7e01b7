"""Keep freed memory: given back to the system, its pages fault again in every step on a CPU."""

import ctypes
import sys

# Numbers of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Tell glibc to hold on to large buffers; call it before JAX starts, elsewhere it does nothing.

    A compiled step allocates and frees the same hundreds of megabytes each time. By default glibc
    maps and unmaps them; kept, the step on two cores is about a sixth faster.
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
