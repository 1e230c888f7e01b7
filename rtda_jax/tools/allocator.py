"""How this process keeps the memory that it frees, on a Linux with glibc.

XLA takes a step's temporary memory from malloc and frees it after the step. On a CPU, what malloc
does with it decides a sixth of the time of a step. Without glibc, these functions do nothing.
"""

import ctypes
import functools
import sys

# Numbers of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event, with the seconds it took
LARGE_COMPILATION = 5.0  # seconds; shorter ones are many, and `retire_holes` takes 0.2 s
LARGEST_PIECE, SMALLEST_PIECE = 2**26, 2**16  # bytes


def keep_freed_memory() -> None:
    """Tells glibc to keep large buffers that are freed; must be called before JAX starts.

    A compiled step allocates and frees the same hundreds of megabytes each time. By default glibc
    returns them to the system, and their pages fault again in every step. If the memory is kept,
    the step on two cores is about a sixth faster.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(M_ARENA_MAX, 1)


@functools.cache
def retire_holes_after_compilations() -> None:
    """Makes JAX call `retire_holes` after every compilation that takes more than five seconds."""
    import jax  # not earlier, because `keep_freed_memory` must come before

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and duration_secs > LARGE_COMPILATION:
            retire_holes()

    jax.monitoring.register_event_duration_secs_listener(compiled)


def retire_holes() -> int:
    """Returns the pages of the heap's free memory to the system and takes its holes out of use.

    The compilation of a step frees more than a gigabyte in a hundred thousand pieces, and glibc
    keeps them in sorted lists. Each buffer that the step then frees is sorted into such a list,
    which took a seventh of the time of a step on small images. So the large holes are allocated
    and never freed or touched: they occupy addresses, but no memory. The next compilation takes
    new addresses.

    Returns:
      how many pieces were allocated.
    """
    libc = _glibc()
    if libc is None:
        return 0
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.malloc_trim(0)
    end, pieces, size = libc.sbrk(0), 0, LARGEST_PIECE
    while size >= SMALLEST_PIECE:
        piece = libc.malloc(size)
        if piece is not None and piece + size <= end:
            pieces += 1
        else:  # no hole of this size is left: the heap has grown, and the piece is at its end
            libc.free(piece)
            size //= 2
    return pieces


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
