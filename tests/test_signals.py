"""SIGTERM, with and without a state to save, and a run that no longer moves."""

import contextlib
import os
import signal
import threading
import time

import pytest

from rtda_jax.errors import Interrupted
from rtda_jax.run import signals
from rtda_jax.run.signals import STALLED, watchdog


def asked():
    os.kill(os.getpid(), signal.SIGTERM)


def swallows():
    with contextlib.suppress(Exception):
        asked()


def makes_another_error_of_it():
    try:
        asked()
    except Exception as error:
        raise ValueError("a damaged file") from error


@pytest.mark.parametrize("work", [asked, swallows, makes_another_error_of_it])
def test_a_signal_ends_the_work_with_its_sentence(work):
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(Interrupted, match="stopped in stage x"),
        signals.stop_at_once("stopped in stage x"),
    ):
        work()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_without_a_signal_is_what_it_was():
    with pytest.raises(LookupError), signals.stop_at_once("stopped"):
        raise LookupError


def test_what_saves_its_state_inside_is_asked_and_not_ended():
    with signals.stop_at_once("stopped"), signals.shutdown_event() as stop:
        asked()
        assert stop.is_set()


def test_the_first_sigterm_raises_the_flag_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals.shutdown_event() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def test_standing_still_dumps_the_stacks_and_ends(capfd):
    ended, over = [], threading.Event()

    def end(code):
        ended.append(code)
        over.set()

    def waiting_for_input_that_never_comes():
        assert over.wait(10)

    with watchdog(0.2, end=end):
        waiting_for_input_that_never_comes()
    assert ended == [STALLED]
    said = capfd.readouterr().err
    assert "waiting_for_input_that_never_comes" in said
    assert "Stalled: nothing was finished in 0.2 s (stall_seconds)" in said


def test_moving_is_left_alone():
    ended = []
    with watchdog(0.5, end=ended.append) as heartbeat:
        for _ in range(10):
            time.sleep(0.1)
            heartbeat()
    assert ended == []


def test_zero_waits_for_ever():
    before = threading.active_count()
    with watchdog(0.0) as heartbeat:
        heartbeat()
        assert threading.active_count() == before
