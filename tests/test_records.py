import json
import os
import signal

import numpy as np
import pytest

from rtda_jax.run import interrupt, records
from rtda_jax.run.clock import Clock
from rtda_jax.tools import pictures


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (42.4, "42s"), (60, "1m00s"), (187, "3m07s"), (7500, "2h05m")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert records.duration(seconds) == text


def test_a_line_shows_step_terms_discriminator_rates_and_time_left():
    record = {
        "step": 20, "loss": 2.5, "seg": 1.25, "adv_output": 0.7, "d_output_accuracy_source": 0.5,
        "d_output_accuracy_target": 0.75, "g_lr": 0.02, "d_lr": 1e-4, "images_per_second": 12.34,
        "data_wait": 0.031, "seconds_left": 75.0,
    }  # fmt: skip
    line = records.line(record, steps=400, objective=["seg", "adv_output"])
    assert line == (
        "step  20/400  loss 2.500  seg 1.250  adv_output 0.700  D(output) right 0.50/0.75  "
        "lr 0.02/0.0001  12.3 img/s  data 3%  left 1m15s"
    )


def test_resuming_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        records.append(path, {"step": step, "loss": float("nan") if step == 1 else 0.5})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    records.truncate(path, after=2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]


def test_clock_counts_images_waiting_and_what_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(step=10, steps=50, images_per_step=8)
    with clock.waiting():
        now[0] += 1.0
    now[0] += 3.0
    lap = clock.lap(20)
    assert lap == {"images_per_second": 20.0, "data_wait": 0.25, "seconds_left": 12.0}
    assert clock.elapsed() == 0.0


def test_the_first_sigterm_raises_the_flag_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with interrupt.watch() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def test_colours_of_labels_and_ignored_pixels():
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    painted = pictures.colourise(np.array([[0, 1, 255]], np.uint8), colours)
    np.testing.assert_array_equal(painted, [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]])


def test_grid_holds_every_cell_and_a_legend():
    cell = np.full((8, 16, 3), 200, np.uint8)
    other = np.full((8, 16, 3), (1, 2, 3), np.uint8)
    colours = np.array([[9, 8, 7]], np.uint8)
    sheet = np.asarray(
        pictures.grid([[cell, other]], titles=["a", "b"], names=["road"], colours=colours, width=32)
    )
    for colour, least in (((200, 200, 200), 500), ((1, 2, 3), 500), ((9, 8, 7), 100)):
        assert (sheet == colour).all(-1).sum() >= least


def test_bytes_are_rounded_and_clipped():
    np.testing.assert_array_equal(pictures.as_bytes(np.array([-3.0, 1.6, 300.0])), [0, 2, 255])
