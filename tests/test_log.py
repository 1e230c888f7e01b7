import io
import json

import pytest

from rtda_jax.run import log
from rtda_jax.run.log import Clock, Progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (42.4, "42s"), (60, "1m00s"), (187, "3m07s"), (7500, "2h05m")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert log.duration(seconds) == text


def test_a_line_shows_step_terms_discriminator_rates_and_time_left():
    record = {
        "step": 20, "loss": 2.5, "seg": 1.25, "adv_output": 0.7, "d_output_accuracy_source": 0.5,
        "d_output_accuracy_target": 0.75, "g_lr": 0.02, "d_lr": 1e-4, "images_per_second": 12.34,
        "data_wait": 0.031, "seconds_left": 75.0,
    }  # fmt: skip
    line = log.line(record, steps=400, objective=["seg", "adv_output"])
    assert line == (
        "step  20/400  loss 2.500  seg 1.250  adv_output 0.700  D(output) right 0.50/0.75  "
        "lr 0.02/0.0001  12.3 img/s  data 3%  left 1m15s"
    )


def test_resuming_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        log.append(path, {"step": step, "loss": float("nan") if step == 1 else 0.5})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.truncate(path, after=2)
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


def test_progress_in_a_file_is_a_line_every_quarter(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    said = io.StringIO()
    progress = Progress("images", 8, to=said)
    for _ in range(8):
        now[0] += 0.5
        progress.add(1)
    progress.end()
    assert said.getvalue().splitlines() == [
        "images: 2/8  2.0 img/s  left 3s",
        "images: 4/8  2.0 img/s  left 2s",
        "images: 6/8  2.0 img/s  left 1s",
        "images: 8/8  2.0 img/s  left 0s",
    ]


def test_progress_on_a_terminal_rewrites_its_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    said = Terminal()
    progress = Progress("preparing", 90, 30, to=said)
    for _ in range(60):
        now[0] += 0.01
        progress.add(1)
    progress.end()
    shown = said.getvalue()
    assert shown.count("\r") == 3
    assert shown.endswith("preparing: 90/90  100.0 img/s  left 0s\x1b[K\n")
