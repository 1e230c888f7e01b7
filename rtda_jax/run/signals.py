"""Graceful shutdown on SIGTERM and SIGINT, and a watchdog for a run that no longer moves."""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from rtda_jax.errors import Interrupted

STALLED = 6  # exit code of a process that the watchdog ended
STDERR = 2
STALLED_SENTENCE = (
    "\nStalled: nothing was finished in {:g} s (stall_seconds). The stacks of all threads are "
    "above. The same command continues from the newest checkpoint\n"
)


@contextlib.contextmanager
def shutdown_event() -> Iterator[threading.Event]:
    """Yields an event that the first SIGTERM or SIGINT sets.

    A second signal acts as it would outside, so that a user who presses Ctrl-C twice is obeyed.
    Outside the main thread, where Python allows no signal handlers, the event is never set.
    """
    event = threading.Event()
    with _handle_first(event.set):
        yield event


@contextlib.contextmanager
def stop_at_once(sentence: str) -> Iterator[None]:
    """Raises `Interrupted` inside the block as soon as SIGTERM or SIGINT arrives.

    For work that is simply done again when its files are missing, and that writes them whole. A
    second signal acts as it would outside.

    Raises:
      Interrupted: with `sentence`, also if the work swallowed what the signal raised or turned it
        into an error of its own.
    """
    arrived = False

    def stop() -> None:
        nonlocal arrived
        arrived = True
        raise Interrupted(sentence)

    with _handle_first(stop):
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:  # libraries wrap what the signal raised inside them
            if arrived:
                raise Interrupted(sentence) from error
            raise
    if arrived:
        raise Interrupted(sentence)


@contextlib.contextmanager
def _handle_first(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` on the first SIGTERM or SIGINT; then the earlier handlers are back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        restore()
        action()

    for number in earlier:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def watchdog(
    seconds: float, *, end: Callable[[int], object] = os._exit
) -> Iterator[Callable[[], None]]:
    """Yields a heartbeat; the process ends with `STALLED` if it is not called for `seconds`.

    A thread watches, because the main one may wait forever inside a library: for input that does
    not come, or for a peer that died. Checkpoints are left as they are.

    Args:
      seconds: 0 switches the watchdog off.
      end: ends the process with an exit code.
    """
    if not seconds:
        yield lambda: None
        return
    last_beat, finished = time.monotonic(), threading.Event()

    def heartbeat() -> None:
        nonlocal last_beat
        last_beat = time.monotonic()

    def watch() -> None:
        while not finished.wait(max(seconds - (time.monotonic() - last_beat), 0.01)):
            if time.monotonic() - last_beat < seconds:
                continue
            faulthandler.dump_traceback(STDERR, all_threads=True)
            os.write(STDERR, STALLED_SENTENCE.format(seconds).encode())
            end(STALLED)
            return

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield heartbeat
    finally:
        finished.set()
        thread.join()
