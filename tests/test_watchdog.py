"""A run that stands still ends with its stacks; one that moves is left alone."""

import threading
import time

from rtda_jax.run.watchdog import EXIT_CODE, watchdog


def test_standing_still_dumps_the_stacks_and_ends(capfd):
    ended, over = [], threading.Event()

    def end(code):
        ended.append(code)
        over.set()

    def waiting_for_input_that_never_comes():
        assert over.wait(10)

    with watchdog(0.2, end=end):
        waiting_for_input_that_never_comes()
    assert ended == [EXIT_CODE]
    said = capfd.readouterr().err
    assert "waiting_for_input_that_never_comes" in said
    assert "Stalled: nothing done in 0.2 s (stall_seconds)" in said


def test_moving_is_left_alone():
    ended = []
    with watchdog(0.5, end=ended.append) as moved:
        for _ in range(10):
            time.sleep(0.1)
            moved()
    assert ended == []


def test_zero_waits_for_ever():
    before = threading.active_count()
    with watchdog(0.0) as moved:
        moved()
        assert threading.active_count() == before
