"""Runs as they stand in their folders, every field checked where it is read."""

import dataclasses
import glob
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import ClassSet, class_set
from rtda_jax.errors import ConfigError
from rtda_jax.run import log

RESULTS, CONFIG = "results.json", "config.json"
SEED = re.compile(r"seed\d+")  # a workdir of --seeds=N
NUMBER = (int, float)
MAYBE = (int, float, type(None))
LARGEST = 2**63  # of a number in a record
DEEPEST = 64  # objects and lists in one another


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluate stage of one run.

    Attributes:
      miou, pixel_accuracy, iou: fractions, None where nothing can be said.
      confusion: pixel counts [K][K] over the head's classes, rows the truth.
      protocol: what decides the numbers besides the weights.
      validators: scores that read no target label, by name.
      models: the train stages it fuses.
      seconds: it took.
      picture: its predictions.png, or None.
    """

    miou: float | None
    pixel_accuracy: float | None
    iou: Mapping[str, float | None]
    confusion: Sequence[Sequence[int]]
    protocol: Mapping[str, Any]
    validators: Mapping[str, float | None]
    models: Sequence[str]
    images: int
    step: int
    seconds: float
    picture: pathlib.Path | None


@dataclasses.dataclass(frozen=True)
class Training:
    """One train stage of one run: its record and the rows of its metrics.jsonl.

    Attributes:
      networks: name, parameters and multiply-accumulates of each, in words.
    """

    objective: str
    seconds: float
    step: int
    rows: Sequence[Mapping[str, Any]]
    networks: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or unfinished experiment in its folder."""

    name: str
    config: Mapping[str, Any]
    benchmark: str
    seed: int
    commit: str | None
    environment: Mapping[str, Any]
    command: str
    trainings: Mapping[str, Training]
    evaluations: Mapping[str, Evaluation]
    missing: Sequence[str]


class Record:
    """A JSON object of a file; a field that is missing or of another type is an error by name."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, found {type(value).__name__}")
        self.where, self.value = where, value

    def get(self, field: str, kind: Any, *, default: Any = ...) -> Any:
        """The field's value, checked to be of `kind`, or the default where it is absent."""
        if field not in self.value:
            if default is ...:
                raise ConfigError(f"{self.where}: no field {field!r}; is this a run's record?")
            return default
        value = self.value[field]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__.replace("NoneType", "null") for k in kinds)
            raise ConfigError(f"{self.where}: field {field!r} must be {names}, found {value!r}")
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise ConfigError(f"{self.where}: field {field!r} is too large a number")
        return value

    def seconds(self, field: str) -> float:
        """A field that is a duration."""
        value = self.get(field, NUMBER)
        if not value >= 0:
            raise ConfigError(f"{self.where}: field {field!r} must be 0 or more, found {value!r}")
        return value

    def each(self, field: str, kind: Any, **default: Any) -> list[Any]:
        """A field that is a list whose values are all of one kind."""
        found = self.get(field, list, **default)
        record = Record(self.where, {f"{field}[{i}]": value for i, value in enumerate(found)})
        return [record.get(name, kind) for name in record.value]

    def child(self, field: str) -> "Record":
        """A field that is an object."""
        return Record(f"{self.where}: {field}", self.get(field, dict))

    def table(self, field: str, kind: Any, **default: Any) -> dict[str, Any]:
        """A field that is an object whose values are all of one kind."""
        found = self.get(field, dict, **default)
        record = Record(f"{self.where}: {field}", found)
        return {name: record.get(name, kind) for name in found}


def find(patterns: Sequence[str]) -> list[pathlib.Path]:
    """The workdirs that paths and globs name, sorted, each once; of --seeds=N its N workdirs.

    Raises:
      ConfigError: nothing is named, or a path or glob finds nothing.
    """
    folders: dict[pathlib.Path, pathlib.Path] = {}
    for pattern in patterns:
        found = [
            pathlib.Path(p) for p in sorted(glob.glob(str(pathlib.Path(pattern).expanduser())))
        ]
        if not found:
            raise ConfigError(f"report: {pattern} finds no folder")
        for path in filter(pathlib.Path.is_dir, found):
            seeds = [] if (path / RESULTS).exists() else sorted(path.glob(f"seed*/{RESULTS}"))
            inside = [result.parent for result in seeds] or [path]
            folders |= {p.resolve(): p for p in inside}
    if not folders:
        raise ConfigError("report: name the workdirs to report on, --runs=runs/a,runs/b or runs/*")
    return [folders[resolved] for resolved in sorted(folders)]


def read_json(path: pathlib.Path) -> Record:
    """A JSON file's object; ConfigError names the file."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a run writes it (--job=run)") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    return _record(str(path), text)


def _record(where: str, text: str) -> Record:
    try:
        value = json.loads(text)
        level = [value]
        for _ in range(DEEPEST):
            level = [inner for outer in level for inner in _inside(outer)]
        json.dumps(value, ensure_ascii=False).encode()  # halves of a character can not be written
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    if level:
        raise ConfigError(f"{where}: more than {DEEPEST} objects and lists in one another")
    return Record(where, value)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def load(folder: pathlib.Path) -> Run:
    """A workdir's run; one that has finished no stage yet has none.

    Raises:
      ConfigError: a file or field is missing or of another kind; both are named.
    """
    if not (folder / RESULTS).exists() and (folder / CONFIG).exists():
        return _begun(read_json(folder / CONFIG), _name(folder.resolve()))
    record = read_json(folder / RESULTS)
    config = record.child("config")
    planned = config.each("stages", str)
    config.get("batch_size", int)
    config.child("model").get("name", str)
    kinds = {name: config.child("stage").child(name).get("kind", str) for name in planned}
    stages = record.child("stages")
    trainings, evaluations = {}, {}
    for name in stages.value:
        stage = stages.child(name)
        if name != pathlib.PurePath(name).name:
            raise ConfigError(f"{stages.where}: {name!r} can not be the name of a stage")
        if kinds.get(name) == "train":
            trainings[name] = _training(stage, folder / name)
        elif kinds.get(name) == "evaluate":
            evaluations[name] = _evaluation(stage, folder / name)
    environment = record.child("environment")
    environment.get("devices", list, default=[])
    return Run(
        name=_name(folder.resolve()),
        config=config.value,
        benchmark=record.get("benchmark", str),
        seed=record.get("seed", int),
        commit=record.get("commit", (str, type(None))),
        environment=environment.value,
        command=record.get("command", str, default=""),
        trainings=trainings,
        evaluations=evaluations,
        missing=[name for name in planned if name not in stages.value],
    )


def _begun(config: Record, name: str) -> Run:
    return Run(
        name=name,
        config=config.value,
        benchmark=config.child("benchmark").get("name", str),
        seed=config.get("seed", int),
        commit=None,
        environment={},
        command="",
        trainings={},
        evaluations={},
        missing=config.each("stages", str),
    )


def _name(folder: pathlib.Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if SEED.fullmatch(folder.name) else folder.name


def _training(record: Record, folder: pathlib.Path) -> Training:
    path = folder / log.METRICS_FILE
    rows = []
    for number, line in enumerate(_lines(path), 1):
        row = _record(f"{path}, line {number}", line)
        row.get("step", int)
        rows.append({name: row.get(name, MAYBE) for name in row.value})
    return Training(
        objective=record.get("objective", str),
        seconds=record.seconds("seconds"),
        step=record.get("step", int),
        rows=rows,
        networks=[str(words) for words in record.get("networks", list, default=[])],
    )


def _lines(path: pathlib.Path) -> Sequence[str]:
    try:
        return path.read_text().splitlines() if path.exists() else ()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: can not be read: {error}") from None


def _evaluation(record: Record, folder: pathlib.Path) -> Evaluation:
    picture = folder / "predictions.png"
    protocol = record.child("protocol")
    head, wanted = (_classes(protocol, field) for field in ("head_classes", "classes"))
    confusion = record.get("confusion", list)
    for row in [confusion, *confusion]:
        if not isinstance(row, list) or len(row) != len(head):
            raise ConfigError(
                f"{record.where}: field 'confusion' must be {len(head)} x {len(head)} counts"
            )
    if not all(type(n) is int and 0 <= n < LARGEST for row in confusion for n in row):
        raise ConfigError(f"{record.where}: field 'confusion' holds something else than counts")
    iou = record.table("iou", MAYBE)
    if tuple(iou) != wanted.names:
        raise ConfigError(f"{record.where}: field 'iou' does not have the classes of {wanted.name}")
    return Evaluation(
        miou=record.get("miou", MAYBE),
        pixel_accuracy=record.get("pixel_accuracy", MAYBE),
        iou=iou,
        confusion=confusion,
        protocol=protocol.value,
        validators=record.table("validators", MAYBE, default={}),
        models=record.each("models", str),
        images=record.get("images", int),
        step=record.get("step", int),
        seconds=record.seconds("seconds"),
        picture=picture if picture.exists() else None,
    )


def _classes(protocol: Record, field: str) -> ClassSet:
    try:
        return class_set(protocol.get(field, str))
    except DataError as error:
        raise ConfigError(f"{protocol.where}: field {field!r}: {error}") from None
