"""Other views of a run's metrics.jsonl, written while it trains."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rtda_jax.errors import ConfigError
from rtda_jax.run import log


class Logger(Protocol):
    """What gets each record that metrics.jsonl gets."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take the record of one log step."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """TensorBoard event files in `<stage>/tensorboard`.

    They are written anew from metrics.jsonl when a run starts or continues, so that no step is
    there twice, and a run that was begun without them has all its steps.
    """

    def __init__(self, workdir: pathlib.Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "loggers: tensorboard needs tensorboardX (pip install 'rtda_jax[tensorboard]')"
            ) from None
        folder = workdir / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # purge_step makes a TensorBoard that is already looking forget the old file's steps.
        self.writer = SummaryWriter(str(folder), purge_step=0)
        for record in log.read(workdir / log.METRICS_FILE):
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of a record as a scalar of its step."""
        for name, value in record.items():
            if name != "step" and value is not None:
                self.writer.add_scalar(group(name), value, record["step"])

    def close(self) -> None:
        """Write out what is held back."""
        self.writer.close()


LOGGERS: dict[str, Callable[[pathlib.Path], Logger]] = {"tensorboard": TensorBoard}

SPEED = ("images_per_second", "data_wait", "seconds_left")


def group(name: str) -> str:
    """The scalar's name under a heading: discriminator, optimisation, speed or objective."""
    if name in SPEED:
        return f"speed/{name}"
    if name.endswith(("_lr", "grad_norm")):
        return f"optimisation/{name}"
    return f"discriminator/{name}" if name.startswith("d_") else f"objective/{name}"


def check(names: Sequence[str]) -> None:
    """ConfigError for a logger that is not known."""
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"loggers: unknown {name!r}; known: {', '.join(LOGGERS)}")


class Loggers:
    """Several of them as one, to be left as a context."""

    def __init__(self, names: Sequence[str], workdir: pathlib.Path) -> None:
        check(names)
        self.opened = [LOGGERS[name](workdir) for name in names]

    def write(self, record: Mapping[str, Any]) -> None:
        """Hand a record to each."""
        for one in self.opened:
            one.write(record)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.opened:
            one.close()
