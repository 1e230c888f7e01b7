"""How fast a loop goes, how long it waits for data and when it will be done."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Wall time between two log steps and the share of it spent waiting."""

    def __init__(self, *, step: int, steps: int, images_per_step: int) -> None:
        self.steps = steps
        self.images_per_step = images_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Count from here."""
        self.step, self.mark, self.waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        begin = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begin

    def elapsed(self) -> float:
        """Seconds since the last restart."""
        return time.perf_counter() - self.mark

    def lap(self, step: int) -> dict[str, float]:
        """Rates since the last restart, which this call is."""
        seconds, done = max(self.elapsed(), 1e-9), step - self.step
        rates = {
            "images_per_second": done * self.images_per_step / seconds,
            "data_wait": min(self.waited / seconds, 1.0),
            "seconds_left": (self.steps - step) * seconds / max(done, 1),
        }
        self.restart(step)
        return rates
