"""SIGTERM, with and without a state to save, and a run that no longer moves."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from rtda_jax.errors import Interrupted
from rtda_jax.run import parallel, signals
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


def test_what_compiles_gives_its_result_and_its_errors():
    assert signals.compiling(lambda: 7) == 7
    with pytest.raises(LookupError, match="gone"):
        signals.compiling(raises)
    assert signals.leave(3) == 3


def raises():
    raise LookupError("gone")


def test_compiling_is_said_after_some_patience(monkeypatch, capsys):
    monkeypatch.setattr(signals, "PATIENCE", 0.0)
    signals.compiling(lambda: time.sleep(0.3), what="the step")
    assert capsys.readouterr().out.count("compiling the step, unless an earlier") == 1
    monkeypatch.setattr(signals, "PATIENCE", 60.0)
    signals.compiling(lambda: time.sleep(0.3))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_stops_the_waiting_unless_others_wait_for_this_process(processes, monkeypatch):
    monkeypatch.setattr(parallel, "process", lambda: (0, processes))
    finished, begin = threading.Event(), time.monotonic()

    def compiles():
        asked()
        assert finished.wait(1.0) == (processes == 1)
        return "compiled"

    with signals.shutdown_event() as stop:
        if processes > 1:
            assert signals.compiling(compiles, stop=stop) == "compiled"
            assert stop.is_set()
            return
        with pytest.raises(Interrupted, match="stopped before step 1"):
            signals.compiling(compiles, stop=stop, sentence="stopped before step 1")
    assert time.monotonic() - begin < 0.9
    finished.set()


def test_a_signal_that_ends_the_work_at_once_ends_the_waiting_too():
    finished = threading.Event()

    def compiles():
        asked()
        finished.wait(10)

    begin = time.monotonic()
    with (
        pytest.raises(Interrupted, match="stopped in stage x"),
        signals.stop_at_once("stopped in stage x"),
    ):
        signals.compiling(compiles)
    assert time.monotonic() - begin < 5
    finished.set()


PROGRAM = """
    import os, signal, sys, threading, time
    import jax, jax.numpy as jnp
    from rtda_jax.errors import Interrupted
    from rtda_jax.run import parallel, signals

    def slow(x):
        for _ in range(1500):
            x = jnp.sin(x @ x) + jnp.cos(x.T @ x)
        return x

    signals.PATIENCE = 0.5
    lowered = jax.jit(slow).lower(jnp.ones((8, 8)))
    with signals.shutdown_event() as stop:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        begin = time.monotonic()
        try:
            signals.compiling(lowered.compile, stop=stop, sentence="stopped")
        except Interrupted as error:
            print(f"{error} after {time.monotonic() - begin:.1f} s", flush=True)
            sys.exit(signals.leave(75))
"""


def test_a_compiler_that_is_at_work_does_not_hold_the_process():
    """The compiler is XLA's own, which no signal reaches."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75, done.stderr
    assert "compiling" in done.stdout
    seconds = float(re.search(r"stopped after ([\d.]+) s", done.stdout)[1])
    assert seconds < 5
    print(f"whole process: {time.monotonic() - begin:.1f} s")


def test_only_the_first_call_compiles():
    threads = []

    def function(x, *, y):
        threads.append(threading.current_thread())
        return x + y

    call = signals.compiling_first(function)
    assert [call(n, y=1) for n in range(3)] == [1, 2, 3]
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [False, True, True]


def test_outside_the_main_thread_nothing_is_waited_for():
    names = []

    def compiles():
        names.append(threading.current_thread().name)

    thread = threading.Thread(target=lambda: signals.compiling(compiles), name="caller")
    thread.start()
    thread.join()
    assert names == ["caller"]
