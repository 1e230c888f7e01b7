import pytest
from helpers import batches, config

from rtda_jax.errors import ConfigError
from rtda_jax.run import log
from rtda_jax.run.loggers import Loggers, group
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
    rows = log.read(tmp_path / log.METRICS_FILE)
    assert [row["step"] for row in rows] == [1, 2]
    assert scalars(tmp_path / "tensorboard") == expected(rows)
    assert ("objective/seg", 2) in expected(rows)


def test_a_continued_run_has_every_step_once(tmp_path):
    pytest.importorskip("tensorboardX")
    path = tmp_path / log.METRICS_FILE
    made = [{"step": step, "loss": 1 / step, "d_loss": 0.5} for step in range(1, 7)]
    log.append(path, made[0])  # begun without
    for start in (1, 3):  # continued twice, the second time from before what was written
        log.truncate(path, after=start)
        with Loggers(("tensorboard",), tmp_path) as loggers:
            for record in made[start : start + 3]:
                log.append(path, record)
                loggers.write(record)
    assert log.read(path) == made
    assert scalars(tmp_path / "tensorboard") == expected(made)


def test_an_unknown_logger_is_refused(tmp_path):
    made = config("source_only")
    made.loggers = ("printer",)
    with pytest.raises(ConfigError, match="unknown 'printer'; known: tensorboard"):
        train(made.lock(), tmp_path, batches=batches)
