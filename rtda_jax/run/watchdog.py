"""The end of a run that no longer moves: where every thread stands, then an exit code."""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator

EXIT_CODE = 6
STDERR = 2
SENTENCE = (
    "\nStalled: nothing done in {:g} s (stall_seconds); above is where every thread stands. "
    "The same command continues from the newest checkpoint\n"
)


@contextlib.contextmanager
def watchdog(
    seconds: float, *, end: Callable[[int], object] = os._exit
) -> Iterator[Callable[[], None]]:
    """A function to be called at least every `seconds`, or the process ends with `EXIT_CODE`.

    A thread of its own watches, as the main one may wait for ever inside a library: for input
    that does not come, or for another process that is gone. Checkpoints stay as they are.

    Args:
      seconds: 0 watches nothing.
      end: ends the process.
    """
    if not seconds:
        yield lambda: None
        return
    alive, over = [time.monotonic()], threading.Event()

    def moved() -> None:
        alive[0] = time.monotonic()

    def watch() -> None:
        while not over.wait(max(seconds - (time.monotonic() - alive[0]), 0.01)):
            if time.monotonic() - alive[0] < seconds:
                continue
            faulthandler.dump_traceback(STDERR, all_threads=True)
            os.write(STDERR, SENTENCE.format(seconds).encode())
            end(EXIT_CODE)
            return

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield moved
    finally:
        over.set()
        thread.join()
