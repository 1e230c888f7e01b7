"""Finds the folders of runs and reads what each holds."""

import dataclasses
import glob
import pathlib
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import flax
import numpy as np

from rtda_jax.data.labels import ClassSet, class_set
from rtda_jax.errors import ConfigError, DataError, lookup, printable
from rtda_jax.report.records import (
    LARGEST,
    NUMBER,
    OPTIONAL,
    TEXT,
    Record,
    parse,
    read,
    read_json,
)
from rtda_jax.run.binding import Kinds, Traits, bound_fields
from rtda_jax.run.log import METRICS_FILE

RESULTS, CONFIG, PICTURE = "results.json", "config.json", "predictions.png"
SEED = re.compile(r"seed\d+")  # a folder of --seeds=N
LONGEST_NAME = 80  # characters of a run's name that are shown
MOST_METRICS = 64 << 20  # bytes
MOST_FIELDS = 4096  # of a configuration
MOST_STAGES = 64
MOST_KEYS = 48  # of metrics.jsonl that the report draws

HEALTH = ("target_entropy", "target_classes")  # what a log says about collapse
SPEED = ("images_per_second", "data_wait")
ACCURACY = re.compile(r"d_(.+)_accuracy_(source|target)")

Metrics: TypeAlias = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluate stage of a run measured.

    Attributes:
      miou, pixel_accuracy, iou: fractions; None where nothing can be said.
      confusion: pixel counts [K][K] over the head's classes, rows are the truth.
      protocol: what decides the numbers besides the weights.
      validators: scores that read no target label, by name.
      models: the stages whose networks it fuses, as "STAGE" or "STAGE:teacher".
      seconds: how long it took.
      picture: its predictions.png, or None.
      others: objects with the scores of the stage under other protocols or of fewer steps.
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
    others: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class Training:
    """What a train stage of a run recorded.

    Attributes:
      terms: names of the terms of its objective.
      rows: of its metrics.jsonl, the numbers that a report draws.
      networks: name, parameters and multiply-accumulates of each, in words.
    """

    terms: Sequence[str]
    seconds: float
    step: int
    rows: Metrics
    networks: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment in its folder, finished or not.

    Attributes:
      kinds: planned stages in their order, and the kind of each.
      fields: of each planned stage, those that decide its result, flat.
      missing: planned stages that are not finished.
    """

    name: str
    config: Mapping[str, Any]
    benchmark: str
    seed: int
    kinds: Kinds
    fields: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    commit: str = ""
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str = ""
    trainings: Mapping[str, Training] = dataclasses.field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = dataclasses.field(default_factory=dict)
    missing: Sequence[str] = ()

    @property
    def experiment(self) -> str:
        """The name without the seed at its end."""
        return re.sub(r"[-_./](?:s|seed)[-_=]?\d+$", "", self.name) or self.name


def find(patterns: Sequence[str]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Finds the runs that paths and globs name: each folder, and the seeds of --seeds in it.

    Returns:
      Folders of runs, sorted and each once; and folders that a glob named and that hold no run.

    Raises:
      ConfigError: nothing is named, or a path or glob finds nothing.
    """
    folders: dict[pathlib.Path, pathlib.Path] = {}
    others: set[pathlib.Path] = set()
    for pattern in patterns:
        literal = pathlib.Path(pattern).expanduser()
        if literal.exists():
            paths = [literal]
        else:
            paths = sorted(pathlib.Path(match) for match in glob.glob(str(literal)))
        if not any(path.is_dir() for path in paths):
            raise ConfigError(f"report: {pattern} finds no folder")
        for path in filter(pathlib.Path.is_dir, paths):
            inside = [seed for seed in path.glob("seed*") if SEED.fullmatch(seed.name)]
            workdirs = [folder for folder in (path, *inside) if _begun(folder)]
            if workdirs or path == literal:
                folders |= {folder.resolve(): folder for folder in workdirs or [path]}
            else:
                others.add(path)
    if not folders:
        raise ConfigError("report: name the workdirs to report on, --runs=runs/a,runs/b or runs/*")
    return [folders[resolved] for resolved in sorted(folders)], sorted(others)


def _begun(folder: pathlib.Path) -> bool:
    return any((folder / name).exists() for name in (RESULTS, CONFIG))


def load_all(folders: Sequence[pathlib.Path], kinds: Kinds) -> list[Run]:
    """Reads runs, and names each by the shortest end of its path that no other has.

    Returns:
      The runs in the order of their names.

    Raises:
      ConfigError: see `load`.
    """
    paths = [folder.resolve().parts for folder in folders]
    names: list[str] = []
    for parts in paths:
        depth = 2 if SEED.fullmatch(parts[-1]) else 1
        while sum(other[-depth:] == parts[-depth:] for other in paths) > 1:
            depth += 1
        name = printable("/".join(parts[-depth:]), limit=LONGEST_NAME)
        names.append(f"{name} ({len(names)})" if name in names else name)
    runs = [load(folder, kinds, name) for folder, name in zip(folders, names, strict=True)]
    return sorted(runs, key=lambda run: run.name)


def load(folder: pathlib.Path, kinds: Kinds, name: str = "run") -> Run:
    """Reads a run; one that has finished no stage yet has neither trainings nor evaluations.

    Raises:
      ConfigError: a file or field is missing or of another kind; both are named.
    """
    config_only = not (folder / RESULTS).exists() and (folder / CONFIG).exists()
    path = folder / (CONFIG if config_only else RESULTS)
    record = read_json(path, inside=folder)
    config = record if config_only else record.child("config")
    planned = _plan(config, kinds)
    fields = {stage: bound_fields(config.value, stage, kinds) for stage in planned}
    if config_only:
        benchmark = config.child("benchmark").get("name", str)
        seed = config.get("seed", int)
        return Run(name, config.value, benchmark, seed, planned, fields, missing=list(planned))
    stages = record.child("stages")
    readers = {"training": _training, "scores": _evaluation}
    results: dict[str, dict[str, Any]] = {record: {} for record in readers}
    for stage in stages.value:
        kind = planned.get(_stage_name(stages, stage))
        if kind and kind.record:
            read_stage = readers[kind.record]
            results[kind.record][stage] = read_stage(stages.child(stage), folder, stage)
    environment = record.child("environment")
    environment.get("devices", list, default=[])
    return Run(
        name=name,
        config=config.value,
        benchmark=record.get("benchmark", str),
        seed=record.get("seed", int),
        kinds=planned,
        fields=fields,
        commit=record.get("commit", TEXT) or "",
        environment=environment.value,
        command=record.get("command", str, default=""),
        trainings=results["training"],
        evaluations=results["scores"],
        missing=[stage for stage in planned if stage not in stages.value],
    )


def _plan(config: Record, known: Kinds) -> dict[str, Traits]:
    """Returns the kind of each planned stage, after a look at the fields that a report reads."""
    planned = config.each("stages", str)
    if len(planned) > MOST_STAGES:
        raise ConfigError(f"{config.where}: more than {MOST_STAGES} stages")
    if len(flax.traverse_util.flatten_dict(config.value)) > MOST_FIELDS:
        raise ConfigError(f"{config.where}: more than {MOST_FIELDS} fields")
    config.get("batch_size", int)
    config.child("model").get("name", str)
    fields = config.child("stage")
    kinds = {}
    for stage in planned:
        kind = fields.child(_stage_name(fields, stage)).get("kind", str)
        kinds[stage] = lookup(known, kind, f"kind of the stage {reprlib.repr(stage)}")
        fields.child(stage).each("models", str, default=[])
    return kinds


def _stage_name(record: Record, name: str) -> str:
    """Returns the name of a stage, which is also a folder's, or raises a ConfigError."""
    if name in ("", ".", "..") or re.search(r"[/\\]", name) or len(name.encode()) > 200:
        raise ConfigError(f"{record.where}: {reprlib.repr(name)} cannot be the name of a stage")
    return name


def _training(record: Record, folder: pathlib.Path, stage: str) -> Training:
    objective = record.get("objective", str)
    terms = [term.split("·")[-1].strip() for term in objective.split(" + ")]
    return Training(
        terms=terms,
        seconds=record.seconds("seconds"),
        step=record.get("step", int),
        rows=_metrics(folder, stage, drawn={"loss", *terms, *HEALTH, *SPEED}),
        networks=[str(words) for words in record.get("networks", list, default=[])],
    )


def _metrics(folder: pathlib.Path, stage: str, *, drawn: set[str]) -> Metrics:
    path = folder / stage / METRICS_FILE
    data = read(path, inside=folder, most=MOST_METRICS)
    rows: list[Mapping[str, float]] = []
    keys: dict[str, str] = {}  # each name once in memory
    for number, line in enumerate((data or b"").splitlines(), 1):
        row = parse(f"{path}, line {number}", line)
        row.get("step", int)
        names = [n for n in row.value if n == "step" or n in drawn or ACCURACY.fullmatch(n)]
        values = {keys.setdefault(name, name): row.get(name, OPTIONAL) for name in names}
        rows.append({name: value for name, value in values.items() if value is not None})
        if len(keys) > MOST_KEYS:
            raise ConfigError(f"{path}: more than {MOST_KEYS} terms and discriminators")
    return rows


def _evaluation(record: Record, folder: pathlib.Path, stage: str) -> Evaluation:
    picture = folder / stage / PICTURE
    protocol = record.child("protocol")
    head, wanted = (_classes(protocol, field) for field in ("head_classes", "classes"))
    confusion = record.get("confusion", list)
    for row in [confusion, *confusion]:
        if not isinstance(row, list) or len(row) != len(head):
            size = f"{len(head)} x {len(head)}"
            raise ConfigError(f"{record.where}: field 'confusion' must be {size} counts")
    if not all(type(n) is int and 0 <= n < LARGEST for row in confusion for n in row):
        raise ConfigError(f"{record.where}: field 'confusion' holds something else than counts")
    iou = record.table("iou", OPTIONAL)
    if tuple(iou) != wanted.names:
        raise ConfigError(f"{record.where}: field 'iou' does not have the classes of {wanted.name}")
    return Evaluation(
        miou=record.get("miou", OPTIONAL),
        pixel_accuracy=record.get("pixel_accuracy", OPTIONAL),
        iou=iou,
        confusion=confusion,
        protocol=protocol.value,
        validators=record.table("validators", OPTIONAL, default={}),
        models=record.each("models", str),
        images=record.get("images", int),
        step=record.get("step", int),
        seconds=record.seconds("seconds"),
        picture=picture if picture.exists() else None,
        others=[_other(record, other) for other in record.get("others", list, default=[])],
    )


def _other(record: Record, value: Any) -> Mapping[str, Any]:
    other = Record(f"{record.where}: others", value)
    scores = {name: other.get(name, OPTIONAL) for name in ("miou", "pixel_accuracy")}
    return {**scores, "step": other.get("step", int), "protocol": other.child("protocol").value}


def _classes(protocol: Record, field: str) -> ClassSet:
    name = protocol.get(field, str)
    if name.endswith(".json"):  # the name of a file, which may be anything
        raise ConfigError(f"{protocol.where}: field {field!r} must be classes, not a file of them")
    try:
        return class_set(name)
    except (ConfigError, DataError) as error:
        raise ConfigError(f"{protocol.where}: field {field!r}: {error}") from None


def speeds(paths: Sequence[pathlib.Path]) -> dict[str, dict[str, Any]]:
    """Reads `speed.json` files of --job=benchmark.

    Returns:
      Network -> `ms` of an image at the largest `size` timed, `device`, `commit`.

    Raises:
      ConfigError: a file or field is missing, or a network was timed twice.
    """
    networks: dict[str, dict[str, Any]] = {}
    for path in paths:
        record = read_json(path)
        model = record.get("model", str)
        if model in networks:
            raise ConfigError(f"{path}: {model} was timed by an earlier file too; give only one")
        networks[model] = _speed(record)
    return networks


def _speed(record: Record) -> dict[str, Any]:
    infer = record.child("infer")
    processes = [Record(f"{infer.where}: ours", p) for p in infer.get("ours", list)]
    if not processes:
        raise ConfigError(f"{infer.where}: field 'ours' is empty")
    medians = []
    for process in processes:
        sizes = process.child("sizes")
        size = next(reversed(sizes.value), "")
        host = sizes.child(size).child("rows").child("host")
        seconds = host.each("seconds", NUMBER)
        if not seconds or min(seconds) <= 0:
            raise ConfigError(f"{host.where}: field 'seconds' must be durations above 0")
        medians.append(float(np.median(seconds)))
    return {
        "ms": 1e3 * float(np.median(medians)),
        "size": size,
        "device": f"{processes[0].get('device', str)}, {record.get('cores', NUMBER)} cores",
        "commit": record.get("commit", TEXT, default=None) or "unknown",
    }
