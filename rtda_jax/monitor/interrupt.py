"""A polite end: SIGTERM and SIGINT raise a flag that the train loop reads between steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def watch() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; a second one acts as usual."""
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
