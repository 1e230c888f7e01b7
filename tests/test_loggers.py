"""Loggers beside metrics.jsonl: each step once, whatever happens to them or to the run."""

import contextlib
import sys
import types

import pytest
from helpers import batches, config

from rtda_jax.errors import ConfigError
from rtda_jax.run import log
from rtda_jax.run.loggers import LOGGERS, Loggers, check, group
from rtda_jax.run.workdir import write_json
from rtda_jax.train import train

SERVICES = ("wandb", "trackio", "mlflow")


def scalars(folder):
    """(tag, step) -> values of every event, read by TensorFlow."""
    import tensorflow as tf

    values = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for raw in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(raw)
            for value in event.summary.value:
                values.setdefault((value.tag, event.step), []).append(value.simple_value)
    return values


def expected(rows):
    return {
        (group(name), row["step"]): [pytest.approx(value, rel=1e-6)]
        for row in rows
        for name, value in row.items()
        if name != "step" and value is not None
    }


def test_training_writes_its_rows_as_events(tmp_path):
    pytest.importorskip("tensorboardX")
    made = config("source_only", steps=2)
    made.loggers = ("tensorboard",)
    train(made.lock(), tmp_path, batches=batches)
    rows = log.read(tmp_path / log.METRICS_FILE)
    assert [row["step"] for row in rows] == [1, 2]
    assert scalars(tmp_path / "tensorboard") == expected(rows)
    assert ("objective/seg", 2) in expected(rows)


ROWS = [{"step": step, "loss": 1 / step, "d_loss": 0.5, "g_lr": None} for step in range(1, 7)]


def torn_run(folder, name):
    """A run that begins without the logger and continues twice, once from before what it wrote."""
    path = folder / log.METRICS_FILE
    log.append(path, ROWS[0])
    for start in (1, 3):
        log.truncate(path, after=start)
        with contextlib.closing(Loggers((name,), folder)) as loggers:
            for row in ROWS[start : start + 3]:
                log.append(path, row)
                loggers.write(row)
    assert log.read(path) == ROWS


def test_a_continued_run_has_every_step_once_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    torn_run(tmp_path, "tensorboard")
    assert scalars(tmp_path / "tensorboard") == expected(ROWS)


class Fake(types.ModuleType):
    """A tracking service that stores runs in a dict, as far as ours use it."""

    def __init__(self, name):
        super().__init__(name)
        self.runs, self.configs, self.finished, self.broken = {}, {}, [], None
        self.store = None

    def session(self, identifier):
        fake = self

        class Run:
            id = identifier

            def log(self, numbers, step):
                if fake.broken:
                    raise fake.broken
                for name, value in numbers.items():
                    fake.runs[identifier].setdefault((name, step), []).append(value)

            def finish(self):
                fake.finished.append(identifier)

        return Run()


class Wandb(Fake):
    def init(self, *, project, name, id, resume, dir, config):
        if self.broken:
            raise self.broken
        assert project == "rtda_jax"
        assert (id is None) == (resume is None)
        assert id is None or id in self.runs
        id = id or f"run{len(self.runs)}"
        self.configs.setdefault(id, config)
        self.runs.setdefault(id, {})
        return self.session(id)


class Trackio(Fake):
    def init(self, *, project, name, config, resume):
        if self.broken:
            raise self.broken
        assert resume == "allow"
        self.configs.setdefault(name, config)
        self.runs.setdefault(name, {})
        return self.session(name)


class Mlflow(Fake):
    def MlflowClient(self, store):
        if self.broken:
            raise self.broken
        self.store = store
        return self

    def get_experiment_by_name(self, name):
        assert name == "rtda_jax"
        return types.SimpleNamespace(experiment_id="1") if self.runs else None

    def create_experiment(self, name):
        assert not self.runs
        return "1"

    def create_run(self, experiment, run_name):
        assert experiment == "1"
        identifier = f"run{len(self.runs)}"
        self.runs[identifier], self.configs[identifier] = {}, {}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=identifier))

    def log_param(self, identifier, name, value):
        self.configs[identifier][name] = value

    def log_metric(self, identifier, name, value, step):
        self.session(identifier).log({name: value}, step)

    def set_terminated(self, identifier):
        self.finished.append(identifier)


@pytest.fixture
def services(monkeypatch):
    fakes = {"wandb": Wandb("wandb"), "trackio": Trackio("trackio"), "mlflow": Mlflow("mlflow")}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return fakes


@pytest.mark.parametrize("name", SERVICES)
def test_a_continued_run_is_one_run_of_a_service_with_every_step_once(name, services, tmp_path):
    folder, fake = tmp_path / "workdir" / "train", services[name]
    folder.mkdir(parents=True)
    write_json(folder / "bound.json", {"fields": {"optim.g_lr": 0.1}})
    torn_run(folder, name)
    (identifier,) = fake.runs
    assert fake.runs[identifier] == expected(ROWS)
    assert fake.configs[identifier] == {"optim.g_lr": 0.1}
    assert fake.finished == [identifier] * 2
    if name == "mlflow":
        assert fake.store == f"sqlite:///{tmp_path / 'workdir' / 'mlflow.db'}"


def test_mlflow_stores_where_its_variable_says(services, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    with contextlib.closing(Loggers(("mlflow",), tmp_path)):
        assert services["mlflow"].store == "http://localhost:5000"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_fails_is_left_out_and_the_run_goes_on(name, services, tmp_path, capsys):
    other = "trackio" if name == "wandb" else "wandb"
    with contextlib.closing(Loggers((name, other), tmp_path)) as loggers:
        loggers.write(ROWS[0])
        services[name].broken = OSError("no\x1bnetwork")
        loggers.write(ROWS[1])
        loggers.write(ROWS[2])
    assert (
        capsys.readouterr().out.count(
            f"WARNING: logger {name} failed and is left out: no\\x1bnetwork"
        )
        == 1
    )
    (rows,) = services[other].runs.values()
    assert rows == expected(ROWS[:3])
    services[name].broken = None
    path = tmp_path / log.METRICS_FILE
    for row in ROWS[:3]:
        log.append(path, row)
    with contextlib.closing(Loggers((name,), tmp_path)):  # the next start sends what it missed
        (rows,) = services[name].runs.values()
        assert rows == expected(ROWS[:3])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_cannot_be_opened_is_a_sentence(name, services, tmp_path):
    services[name].broken = RuntimeError("not logged in")
    other = "trackio" if name == "wandb" else "wandb"
    with pytest.raises(ConfigError, match=f"loggers: {name} cannot be opened: not logged in"):
        Loggers((other, name), tmp_path)
    assert len(services[other].finished) == 1


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch, tmp_path):
    module = "tensorboardX" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {module} \(pip install 'rtda_jax\[{name}\]'\)"):
        Loggers((name,), tmp_path)


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'printer'; known: mlflow, tensorboard, trackio, wandb"):
        check(("tensorboard", "printer"))
    made = config("source_only")
    made.loggers = ("printer",)
    with pytest.raises(ConfigError, match="'printer'; known: mlflow, tensorboard, trackio, wandb"):
        train(made.lock(), tmp_path, batches=batches)
