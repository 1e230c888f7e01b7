"""Graceful shutdown on SIGTERM and SIGINT, and a watchdog for a run that makes no progress.

Python runs a signal handler only between two of its own instructions in the main thread. Work that
stays inside a library for a long time, such as compiling, therefore runs in another thread: see
`compiling`.
"""

import concurrent.futures
import contextlib
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from rtda_jax.errors import Interrupted
from rtda_jax.run import parallel
from rtda_jax.run.log import say

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

PATIENCE = 2.0  # seconds of compiling after which a message says so
_compiling: list[threading.Thread] = []

STALLED = 6  # exit code of a process that the watchdog ended
STDERR = 2
STALLED_SENTENCE = (
    "\nStalled: nothing was finished in {:g} s (stall_seconds). The stacks of all threads are "
    "above. The same command continues from the newest checkpoint\n"
)


@contextlib.contextmanager
def shutdown_event() -> Iterator[threading.Event]:
    """Yields an event that the first SIGTERM or SIGINT sets.

    A second signal has its usual effect, so that pressing Ctrl-C twice ends the program. Outside
    the main thread, where Python allows no signal handlers, the event is never set.
    """
    event = threading.Event()
    with _handle_first(event.set):
        yield event


@contextlib.contextmanager
def stop_at_once(sentence: str) -> Iterator[None]:
    """Raises `Interrupted` inside the block as soon as SIGTERM or SIGINT arrives.

    Use this for work that writes its files atomically and is simply repeated when they are missing.
    A second signal has its usual effect.

    Raises:
      Interrupted: with `sentence`, even if the work swallowed the signal's exception or turned it
        into another error.
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
        except Exception as error:  # libraries may wrap the signal's exception
            if arrived:
                raise Interrupted(sentence) from error
            raise
    if arrived:
        raise Interrupted(sentence)


@contextlib.contextmanager
def _handle_first(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` on the first SIGTERM or SIGINT, then restores the earlier handlers."""
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


def compiling(
    work: Callable[[], Result],
    *,
    what: str = "the network",
    stop: threading.Event | None = None,
    sentence: str = "",
) -> Result:
    """Returns what `work` returns, and reacts to signals while it compiles.

    Prints a message if this takes longer than `PATIENCE`. One of several processes never stops
    here, because the others would wait for it; they stop together after their first step.

    Args:
      work: a function that compiles when it is called, such as the first call of a jitted function.
      what: what is compiled, for the message.
      stop: an event of `shutdown_event` that ends the waiting. An exception of `stop_at_once` ends
        it in any case.
      sentence: the message of `Interrupted`.

    Raises:
      Interrupted: the event is set. The work continues in its thread until the process ends, and
        the process must not wait for it: see `leave`.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # raised in the main thread
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="compiling", daemon=True)
    _compiling.append(thread)
    thread.start()
    start, quiet = time.monotonic(), True
    while not concurrent.futures.wait([outcome], timeout=0.1).done:
        if quiet and time.monotonic() - start > PATIENCE:
            say(f"  compiling {what}, unless an earlier start left it in the cache")
            quiet = False
        if stop is not None and stop.is_set() and parallel.process()[1] == 1:
            raise Interrupted(sentence)
    _compiling.remove(thread)
    return outcome.result()


def compiling_first(
    function: Callable[Arguments, Result],
    *,
    what: str = "the network",
    stop: threading.Event | None = None,
    sentence: str = "",
) -> Callable[Arguments, Result]:
    """Returns a function whose first call, in which it compiles, runs inside `compiling`."""
    called = False

    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        nonlocal called
        if called:
            return function(*args, **kwargs)
        called = True
        work = functools.partial(function, *args, **kwargs)
        return compiling(work, what=what, stop=stop, sentence=sentence)

    return call


def leave(code: int) -> int:
    """Returns the exit code, or ends the process with it at once if a compilation still runs.

    A normal exit would wait for the compiler, or free its memory while it works.
    """
    if any(thread.is_alive() for thread in _compiling):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@contextlib.contextmanager
def watchdog(
    seconds: float, *, end: Callable[[int], object] = os._exit
) -> Iterator[Callable[[], None]]:
    """Yields a heartbeat; the process ends with `STALLED` if it is not called for `seconds`.

    The watchdog is a thread, because the main thread may wait forever inside a library: for input
    that does not arrive, or for a process that died. It does not change any checkpoints.

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
