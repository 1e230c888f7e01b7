"""SIGTERM where nothing is saved in between: the work ends at once, whatever it makes of that."""

import contextlib
import os
import signal

import pytest

from rtda_jax.errors import Interrupted
from rtda_jax.run import interrupt


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
        interrupt.at_once("stopped in stage x"),
    ):
        work()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_without_a_signal_is_what_it_was():
    with pytest.raises(LookupError), interrupt.at_once("stopped"):
        raise LookupError


def test_what_saves_its_state_inside_is_asked_and_not_ended():
    with interrupt.at_once("stopped"), interrupt.watch() as stop:
        asked()
        assert stop.is_set()
