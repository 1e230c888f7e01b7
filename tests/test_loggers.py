import io

import pytest
from helpers import batches, config

from rtda_jax.errors import ConfigError
from rtda_jax.run import records
from rtda_jax.run.loggers import Loggers, group
from rtda_jax.run.progress import Progress
from rtda_jax.train import train


def scalars(folder):
    """(tag, step) -> values of every event, read by TensorFlow."""
    import tensorflow as tf

    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for raw in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(raw)
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


def expected(rows):
    return {
        (group(name), row["step"]): [pytest.approx(value, rel=1e-6)]
        for row in rows
        for name, value in row.items()
        if name != "step" and value is not None
    }


def test_training_writes_its_records_as_events(tmp_path):
    pytest.importorskip("tensorboardX")
    made = config("source_only", steps=2)
    made.loggers = ("tensorboard",)
    train(made.lock(), tmp_path, batches=batches)
    rows = records.read(tmp_path / records.FILE)
    assert [row["step"] for row in rows] == [1, 2]
    assert scalars(tmp_path / "tensorboard") == expected(rows)
    assert ("objective/seg", 2) in expected(rows)


def test_a_continued_run_has_every_step_once(tmp_path):
    pytest.importorskip("tensorboardX")
    log = tmp_path / records.FILE
    made = [{"step": step, "loss": 1 / step, "d_loss": 0.5} for step in range(1, 7)]
    records.append(log, made[0])  # begun without
    for start in (1, 3):  # continued twice, the second time from before what was written
        records.truncate(log, after=start)
        with Loggers(("tensorboard",), tmp_path) as loggers:
            for record in made[start : start + 3]:
                records.append(log, record)
                loggers.write(record)
    assert records.read(log) == made
    assert scalars(tmp_path / "tensorboard") == expected(made)


def test_an_unknown_logger_is_refused(tmp_path):
    made = config("source_only")
    made.loggers = ("printer",)
    with pytest.raises(ConfigError, match="unknown 'printer'; known: tensorboard"):
        train(made.lock(), tmp_path, batches=batches)


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
