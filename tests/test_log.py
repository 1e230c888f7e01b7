import io
import json

import pytest

from rtda_jax.errors import ConfigError
from rtda_jax.run import log
from rtda_jax.run.log import Clock, Progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (42.4, "42s"), (60, "1m00s"), (187, "3m07s"), (7500, "2h05m")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert log.duration(seconds) == text


def test_a_line_shows_step_terms_discriminator_rates_and_time_left():
    record = {
        "step": 20, "loss": 2.5, "seg": 1.25, "adv_output_twice_as_long": 0.7,
        "d_output_accuracy_source": 0.5, "d_output_accuracy_target": 0.75, "g_lr": 0.02,
        "d_lr": 1e-4, "images_per_second": 12.34, "data_wait": 0.031, "seconds_left": 75.0,
    }  # fmt: skip
    line = log.line(record, steps=400, objective=["seg", "adv_output_twice_as_long"])
    assert line == (
        "step  20/400  loss 2.500  D(output) acc 0.50/0.75  seg 1.250  data 3%  12.3 img/s  "
        "left 1m15s"
    )
    del record["d_output_accuracy_source"]
    assert log.line(record, steps=400, objective=["seg"]) == (
        "step  20/400  loss 2.500  seg 1.250  lr 0.02/0.0001  data 3%  12.3 img/s  left 1m15s"
    )


def test_all_lines_of_a_stage_show_the_same_numbers():
    """Numbers of fewer digits leave room for another, which would then come and go."""
    shown = set()
    for term in ("x" * n for n in range(1, 14)):
        for rate, wait, speed, left in (
            (0.01, 0.0, 9.5, 59.0), (0.0031, 0.06, 132.1, 3599.0), (1.2e-05, 0.31, 12.0, 7500.0),
        ):  # fmt: skip
            record = {"step": 20, "loss": 2.5, term: 0.7, "g_lr": rate, "images_per_second": speed,
                      "data_wait": wait, "seconds_left": left}  # fmt: skip
            record |= {"d_output_accuracy_source": 0.5, "d_output_accuracy_target": 0.75}
            line = log.line(record, steps=400, objective=[term])
            shown.add((len(term), "lr" in line, "data" in line))
    assert len(shown) == 13  # one for each term
    assert {(lr, data) for _, lr, data in shown} >= {(True, False), (False, False)}


def test_a_line_of_many_terms_fits_into_100_columns_and_keeps_speed_and_time():
    terms = [f"consistency_aux{n}" for n in range(12)]
    record = {
        "step": 39_999, "loss": 123.4567, "g_lr": 1.234e-05, "images_per_second": 1234.5,
        "data_wait": 1.0, "seconds_left": 359_999.0, **dict.fromkeys(terms, 12.3456),
    }  # fmt: skip
    line = log.line(record, steps=40_000, objective=terms)
    assert 80 < len(line) <= 98
    assert line.startswith("step 39999/40000  loss 123.457  consistency_aux0 12.346  ")
    assert line.endswith("  1234.5 img/s  left 99h59m59s"[:-3])


def test_a_line_without_a_step_since_the_last_names_no_speed():
    clock = Clock(step=1, steps=5, images_per_step=4)
    record = {"step": 1, "loss": 1.0, "g_lr": 0.1, **clock.lap(1)}
    assert log.line(record, steps=5, objective=[]) == "step 1/5  loss 1.000  lr 0.1  data 0%"


def test_resuming_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        log.append(path, {"step": step, "loss": float("nan") if step == 1 else 0.5})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.truncate(path, after=2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]


def test_a_damaged_log_is_repaired_and_kept_as_it_was(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        log.append(path, {"step": step})
    whole = path.read_bytes()
    first, second, third = whole.splitlines(keepends=True)
    for damage in (
        b"\xff\xfe\0\n",
        b"[]\n",
        b"{\n",
        b'{"loss": 1}\n',
        b'{"step": "2"}\n',
        b"[" * 9999,
    ):
        torn = first + damage.rstrip(b"\n") + b"\n" + third
        path.write_bytes(torn)
        with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is not a row"):
            log.read(path)
        log.truncate(path, after=5)
        assert [row["step"] for row in log.read(path)] == [1, 3]
        assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == torn
        assert "1 damaged lines, the first is line 2," in capsys.readouterr().out
    path.write_bytes(first + second + b"{\n" + b"{\n")
    with pytest.raises(ConfigError, match="line 3"):
        log.read(path)


def test_a_torn_last_line_is_what_a_killed_run_leaves(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    log.append(path, {"step": 1})
    for torn in (b"{", b'{"step": 2, "loss": 0.', b'{"step"', b"\xff"):
        path.write_bytes(path.read_bytes() + torn)
        assert [row["step"] for row in log.read(path)] == [1]
        log.truncate(path, after=1)
        assert path.read_bytes() == b'{"step": 1}\n'
    assert capsys.readouterr().out == ""
    log.truncate(tmp_path / "none.jsonl", after=1)
    assert log.read(tmp_path / "none.jsonl") == []
    assert not (tmp_path / "none.jsonl").exists()


def test_what_is_said_cannot_command_a_terminal(capsys):
    log.say("a\x1b[2Jb\nc\rd\te\u202ef\udcffg é")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nc\\rd\\te\\u202ef\\udcffg é\n"


def test_what_is_said_fits_the_encoding_of_the_stream():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    log.say("Zürich ± 線", to=stream)
    stream.seek(0)
    assert stream.read() == "Zürich ± \\u7dda\n"


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
    said, flushed = io.StringIO(), []
    monkeypatch.setattr(said, "flush", lambda: flushed.append(said.getvalue().count("\n")))
    progress = Progress("images", 8, to=said)
    for _ in range(8):
        now[0] += 2.0
        progress.add(1)
    progress.end()
    assert flushed == [1, 2, 3, 4]  # who reads the file sees each line at once
    assert said.getvalue().splitlines() == [
        "images: 2/8  0.5 img/s  left 12s",
        "images: 4/8  0.5 img/s  left 8s",
        "images: 6/8  0.5 img/s  left 4s",
        "images: 8/8  0.5 img/s  left 0s",
    ]


def test_a_job_of_a_moment_writes_no_progress_to_a_file(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    short, longer = io.StringIO(), io.StringIO()
    for seconds, out in ((0.2, short), (0.8, longer)):
        progress = Progress("images", 8, to=out)
        for _ in range(8):
            now[0] += seconds
            progress.add(1)
        progress.end()
    assert short.getvalue() == ""
    assert [line.split("  ")[0] for line in longer.getvalue().splitlines()] == [
        "images: 4/8",
        "images: 6/8",
        "images: 8/8",
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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_more_than_was_expected_is_no_negative_time(monkeypatch):
    monkeypatch.setattr(log, "_SHORT_SECONDS", 0)
    out = io.StringIO()
    progress = Progress("frames", 8, to=out)
    progress.add(8)
    progress.add(10)
    assert out.getvalue().splitlines()[0].endswith("left 0s")
    last = out.getvalue().splitlines()[-1]
    assert last.startswith("frames: 18  ")
    assert "left" not in last
    assert "/8" not in last


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_long_or_hostile_name_is_one_line_that_fits(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(log, "_SHORT_SECONDS", 0)
    out = kind()
    progress = Progress("a\x1b]0;b\n" * 40, 4, to=out)
    progress.add(4)
    (line,) = [row for row in out.getvalue().replace("\x1b[K", "").split("\r") if row]
    assert len(line.rstrip("\n")) == (59 if kind is Terminal else 98)
    assert line.rstrip("\n").isprintable()


def test_nothing_to_do_is_no_error():
    Progress("images", 0, to=io.StringIO()).end()
    Progress("images", 0, to=io.StringIO()).add(0)
