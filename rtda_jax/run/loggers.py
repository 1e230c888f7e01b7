"""Loggers that show a run's metrics while it trains, besides metrics.jsonl, which is always
written.

A logger never influences or ends a run: one that fails is dropped with a warning.
"""

import functools
import importlib
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from rtda_jax.errors import ConfigError, one_of, printable
from rtda_jax.run import log
from rtda_jax.run.binding import RECORD
from rtda_jax.run.log import Metrics
from rtda_jax.run.workdir import read_json, write_json

PROJECT = "rtda_jax"
SPEED = ("images_per_second", "data_wait", "seconds_left")


class Logger(Protocol):
    """Receives each row that is written to metrics.jsonl."""

    def write(self, metrics: Metrics) -> None:
        """Receives one row, which has a value named "step"."""

    def close(self) -> None:
        """Writes buffered rows; no row follows."""


class TensorBoard:
    """Writes TensorBoard's event files to `<stage>/tensorboard`.

    They are rewritten from metrics.jsonl when a run starts or continues, so that no step is in them
    twice, and a run that began without this logger has all of its steps.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        module = _module("tensorboardX", "tensorboard")
        folder = folder / "tensorboard"
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
        # purge_step makes a TensorBoard that is already running forget the steps of old files.
        self.writer = module.SummaryWriter(str(folder), purge_step=0)
        for row in log.read(folder.parent / log.METRICS_FILE):
            self.write(row)

    def write(self, metrics: Metrics) -> None:
        """Writes every number of a row as a scalar of its step."""
        for name, value in _numbers(metrics).items():
            self.writer.add_scalar(name, value, metrics["step"])

    def close(self) -> None:
        """Writes buffered rows."""
        self.writer.close()


class Session(NamedTuple):
    """An open run of a tracking service: its identifier, and how it takes numbers and ends."""

    identifier: str
    log: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


class Service:
    """Sends rows to a tracking service, each step once.

    `<stage>/<service>.json` records the service's run and the last step that it has received. A run
    that continues, or that began without the service, first sends the later rows of metrics.jsonl.
    """

    def __init__(
        self, name: str, start: Callable[[pathlib.Path, str | None], Session], folder: pathlib.Path
    ) -> None:
        self.path = folder / f"{name}.json"
        record = read_json(self.path) if self.path.exists() else {}
        self.session = start(folder, record.get("run"))
        self.last = record.get("step", 0)
        for row in log.read(folder / log.METRICS_FILE):
            self.write(row)

    def write(self, metrics: Metrics) -> None:
        """Sends a row, unless the service already has its step."""
        step = int(metrics["step"])
        if step > self.last:
            self.session.log(_numbers(metrics), step)
            self.last = step
            write_json(self.path, {"run": self.session.identifier, "step": step})

    def close(self) -> None:
        """Ends the session; the service's run can be continued."""
        self.session.close()


def wandb(folder: pathlib.Path, identifier: str | None) -> Session:
    """Starts or continues a run of Weights & Biases (WANDB_MODE=offline needs no account)."""
    run = _module("wandb", "wandb").init(
        project=PROJECT,
        name=_label(folder),
        id=identifier,
        resume="allow" if identifier else None,
        dir=str(folder),
        config=_fields(folder),
    )
    return Session(run.id, lambda numbers, step: run.log(numbers, step=step), run.finish)


def trackio(folder: pathlib.Path, identifier: str | None) -> Session:
    """Starts or continues a run of trackio, which stores it on this machine by default."""
    module = _module("trackio", "trackio")
    name = identifier or f"{_label(folder)} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    run = module.init(project=PROJECT, name=name, config=_fields(folder), resume="allow")
    return Session(name, lambda numbers, step: run.log(numbers, step=step), run.finish)


def mlflow(folder: pathlib.Path, identifier: str | None) -> Session:
    """Starts or continues a run of MLflow, in `<workdir>/mlflow.db` or $MLFLOW_TRACKING_URI."""
    module = _module("mlflow", "mlflow")
    database = f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}"
    client = module.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", database))
    if identifier is None:
        experiment = client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
        identifier = client.create_run(number, run_name=_label(folder)).info.run_id
        for name, value in _fields(folder).items():
            client.log_param(identifier, name, value)
    run = identifier

    def log_numbers(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            client.log_metric(run, name, value, step=step)

    return Session(run, log_numbers, lambda: client.set_terminated(run))


LOGGERS: dict[str, Callable[[pathlib.Path], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": functools.partial(Service, "wandb", wandb),
    "trackio": functools.partial(Service, "trackio", trackio),
    "mlflow": functools.partial(Service, "mlflow", mlflow),
}


class Loggers:
    """Several loggers as one context.

    Args:
      names: keys of `LOGGERS`.
      folder: the stage's.

    Raises:
      ConfigError: a name is unknown, a package is missing, or a logger cannot be opened.
    """

    def __init__(self, names: Sequence[str], folder: pathlib.Path) -> None:
        check(names)
        self.opened: dict[str, Logger] = {}
        for name in names:
            try:
                self.opened[name] = LOGGERS[name](folder)
            except Exception as error:  # services raise errors of their own
                self.close()
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(
                    f"loggers: {name} cannot be opened: {printable(error)}"
                ) from error

    def write(self, metrics: Metrics) -> None:
        """Sends a row to each logger; a logger that fails gets no further rows."""
        self._each(lambda logger: logger.write(metrics))

    def close(self) -> None:
        """Closes each logger."""
        self._each(lambda logger: logger.close())

    def _each(self, action: Callable[[Logger], None]) -> None:
        for name, logger in list(self.opened.items()):
            try:
                action(logger)
            except Exception as error:  # services raise errors of their own
                del self.opened[name]
                log.say(f"  WARNING: logger {name} failed and is left out: {printable(error)}")


def check(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not a key of `LOGGERS`."""
    for name in names:
        one_of(name, LOGGERS, "name in `loggers`:")


def group(name: str) -> str:
    """Returns a number's name under a heading: discriminator, optimisation, speed, objective."""
    if name in SPEED:
        return f"speed/{name}"
    if name.endswith(("_lr", "grad_norm")):
        return f"optimisation/{name}"
    return f"discriminator/{name}" if name.startswith("d_") else f"objective/{name}"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        group(name): value
        for name, value in metrics.items()
        if name != "step" and value is not None and math.isfinite(value)
    }


def _fields(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the configuration that the stage is bound to, by dotted name."""
    path = folder / RECORD
    return read_json(path).get("fields", {}) if path.exists() else {}


def _label(folder: pathlib.Path) -> str:
    folder = folder.resolve()
    return printable(f"{folder.parent.name}/{folder.name}")


def _module(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"loggers: {extra} needs {name} (pip install 'rtda_jax[{extra}]')"
        ) from None
