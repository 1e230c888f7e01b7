"""A polite end: SIGTERM and SIGINT raise a flag where there is a state to save, else an error."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from rtda_jax.errors import Interrupted


@contextlib.contextmanager
def watch() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; a second one acts as outside."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        event.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        restore()


@contextlib.contextmanager
def at_once(sentence: str) -> Iterator[None]:
    """The first SIGTERM or SIGINT ends what runs inside, wherever it is; a second acts as outside.

    For work whose files are written whole and that is done again if they are not there.

    Raises:
      Interrupted: with the sentence, also where the work caught what the signal raised or made
        another error of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = []
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        arrived.append(number)
        restore()
        raise Interrupted(sentence)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:  # libraries wrap what the signal raised inside them
        if arrived:
            raise Interrupted(sentence) from error
        raise
    finally:
        restore()
    if arrived:
        raise Interrupted(sentence)
