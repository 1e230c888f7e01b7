"""Finds the folders of runs and reads their records."""

import dataclasses
import glob
import pathlib
import re
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

from rtda_jax.data.labels import ClassSet, class_set
from rtda_jax.errors import ConfigError, DataError, printable, require
from rtda_jax.report import records
from rtda_jax.report.records import LARGEST, NUMBER, OPTIONAL, Default, Least, checked
from rtda_jax.run.binding import FREE, Kinds, Traits, bound_fields
from rtda_jax.run.log import ACCURACY, METRICS_FILE
from rtda_jax.run.options import among

RESULTS, CONFIG, PICTURE = "results.json", "config.json", "predictions.png"
SEED = re.compile(r"seed\d+")  # a folder of --seeds=N
LONGEST_NAME = 80  # characters of a run's name that are shown
MOST_METRICS = 64 << 20  # bytes
MOST_FIELDS = 4096  # of a configuration
MOST_STAGES = 64
MOST_KEYS = 48  # of metrics.jsonl that the report draws
MOST_VALIDATORS = 16
DATA = ("images", "labels", "labelling", "list", "quarantine")  # say which data a set has

# A kind of stage that a user's own configuration defines: no report shows its record.
UNKNOWN = Traits(
    bound=lambda fields: {k: v for k, v in fields.items() if not among(k, FREE)}, sees_target=True
)

HEALTH = ("target_entropy", "target_classes")  # logged signs of a collapse
SPEED = ("images_per_second", "data_wait")

# The fields of results.json that the report reads, and of the records of its stages.
RUN = {
    "config": {"stages": [str], "stage": dict, "batch_size": int, "model": {"name": str}},
    "benchmark": str,
    "seed": int,
    "commit": str | None,
    "environment": {
        "devices": Default([str], []),
        "cores": Default(int | None, None),
        "platform": Default(str, ""),
        "xla_flags": Default(str, ""),
        "python": Default(str, ""),
        "packages": Default({...: str}, {}),
    },
    "command": Default(str, ""),
    "stages": {...: dict},
}
PLANNED = {"kind": str, "models": Default([str], [])}
BEGUN = {"benchmark": {"name": str}, "seed": int}  # of config.json
TRAINING = {
    "objective": str,
    "seconds": Least(NUMBER, 0),
    "step": int,
    "networks": Default([str], []),
}
SCORES = {"miou": OPTIONAL, "pixel_accuracy": OPTIONAL, "step": int, "protocol": dict}
EVALUATION = SCORES | {
    "iou": {...: OPTIONAL},
    "confusion": list,
    "validators": Default({...: OPTIONAL}, {}),
    "models": [str],
    "images": int,
    "seconds": Least(NUMBER, 0),
    "others": Default([SCORES], []),
}
CLASSES = {"head_classes": str, "classes": str}  # of a protocol
TIMED = {"rows": {"host": {"seconds": [Least(NUMBER, 1e-9)]}}}
SPEEDS = {
    "model": str,
    "cores": NUMBER,
    "commit": Default(str | None, None),
    "infer": {"ours": [{"device": str, "sizes": {...: TIMED}}]},
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluate stage of a run.

    Attributes:
      miou, pixel_accuracy, iou: fractions; None where there is no value.
      confusion: pixel counts [K][K] over the head's classes, rows are the truth.
      protocol: everything that determines the scores besides the weights.
      validators: scores that read no target label, by name.
      models: the stages whose networks it fuses, as "STAGE", "STAGE:teacher" or "STAGE:large".
      seconds: its duration.
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
    """The record of a train stage of a run.

    Attributes:
      terms: the names of the terms of its objective.
      rows: the rows of its metrics.jsonl, with the numbers that a report draws.
      networks: name, parameters and multiply-accumulates of each network, in words.
    """

    terms: Sequence[str]
    seconds: float
    step: int
    rows: Sequence[Mapping[str, float]]
    networks: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment in its folder, finished or not.

    Attributes:
      kinds: the planned stages in their order, and the kind of each.
      fields: the flat fields of each planned stage that decide its result.
      missing: the planned stages that are not finished.
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
      The folders of runs, sorted and without repetitions; and the folders without a run that a glob
      matched. A shell expands globs too, so that a folder that is named beside others may also have
      none.

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
            if workdirs or (len(patterns) == 1 and path == literal):
                folders |= {folder.resolve(): folder for folder in workdirs or [path]}
            else:
                others.add(path)
    if not folders:
        found = f"; no run is in {', '.join(map(str, sorted(others)))}" if others else ""
        raise ConfigError(f"report: name the workdirs to report on, report runs/a runs/b{found}")
    return [folders[resolved] for resolved in sorted(folders)], sorted(others)


def _begun(folder: pathlib.Path) -> bool:
    return any((folder / name).exists() for name in (RESULTS, CONFIG))


def load_all(folders: Sequence[pathlib.Path], kinds: Kinds) -> list[Run]:
    """Reads runs, and names each by the shortest unique end of its path.

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
    """Reads a run; if no stage is finished yet, it has neither trainings nor evaluations.

    Raises:
      ConfigError: names a file or field that is missing or invalid.
    """
    begun = not (folder / RESULTS).exists() and (folder / CONFIG).exists()
    path = folder / (CONFIG if begun else RESULTS)
    value = records.read_json(path, inside=folder)
    if begun:
        fields = checked(value, BEGUN, str(path))
        value = {"config": value, "stages": {}, "commit": None, "environment": {}, **fields}
        value["benchmark"] = fields["benchmark"]["name"]
    record = checked(value, RUN, str(path))
    config, stages = value["config"], record["stages"]
    where = f"{path}: config"
    planned = record["config"]["stages"]
    require(len(planned) <= MOST_STAGES, f"{where}: more than {MOST_STAGES} stages")
    size = len(flax.traverse_util.flatten_dict(config))
    require(size <= MOST_FIELDS, f"{where}: more than {MOST_FIELDS} fields")
    for stage in (*planned, *stages):  # its name is also a folder's
        if stage in ("", ".", "..") or re.search(r"[/\\]", stage) or len(stage.encode()) > 200:
            raise ConfigError(f"{path}: {reprlib.repr(stage)} cannot be the name of a stage")
    plan = checked(config["stage"], dict.fromkeys(planned, PLANNED), f"{where}: stage")
    kinds = {row["kind"]: UNKNOWN for row in plan.values()} | dict(kinds)
    known = {stage: kinds[row["kind"]] for stage, row in plan.items()}
    readers = {"training": _training, "scores": _evaluation}
    results: dict[str, dict[str, Any]] = {kind: {} for kind in readers}
    for stage in stages:
        kind = known[stage].record if stage in known else ""
        if kind:
            place = f"{path}: stages: {stage}"
            results[kind][stage] = readers[kind](stages[stage], place, folder / stage)
    return Run(
        name=name,
        config=config,
        benchmark=record["benchmark"],
        seed=record["seed"],
        kinds=known,
        fields={stage: _fields(config, stage, kinds) for stage in planned},
        commit=record["commit"] or "",
        environment=record["environment"],
        command=record["command"],
        trainings=results["training"],
        evaluations=results["scores"],
        missing=[stage for stage in known if stage not in stages],
    )


def _fields(config: dict[str, Any], stage: str, kinds: Kinds) -> dict[str, Any]:
    """Returns the flat fields that decide the result of a stage, with the places of its data.

    A run may continue on data that moved. Of two runs, nothing but the places of their data says
    whether these are the same.
    """
    placed = bound_fields(config, stage, kinds, placed=True)
    of_sets = {k: v for k, v in placed.items() if k.startswith("benchmark.")}
    data = {k: v for k, v in of_sets.items() if k.rpartition(".")[2] in DATA}
    return bound_fields(config, stage, kinds) | data


def _training(value: Any, where: str, folder: pathlib.Path) -> Training:
    record = checked(value, TRAINING, where)
    terms = [term.split("·")[-1].strip() for term in record.pop("objective").split(" + ")]
    path = folder / METRICS_FILE
    drawn, names = {"loss", *terms, *HEALTH, *SPEED}, set[str]()
    rows: list[Mapping[str, float]] = []
    data = records.read(path, inside=folder.parent, most=MOST_METRICS)
    for number, line in enumerate((data or b"").splitlines(), 1):
        place = f"{path}, line {number}"
        row = checked(records.parse(place, line), dict, place)
        wanted = [key for key in row if key in drawn or ACCURACY.fullmatch(key)]
        row = checked(row, {**dict.fromkeys(wanted, OPTIONAL), "step": int}, place)
        rows.append({sys.intern(k): v for k, v in row.items() if v is not None})
        names.update(rows[-1])
        few = len(names) <= MOST_KEYS
        require(few, f"{path}: more than {MOST_KEYS} terms and discriminators")
    return Training(**record, terms=terms, rows=rows)


def _evaluation(value: Any, where: str, folder: pathlib.Path) -> Evaluation:
    record = checked(value, EVALUATION, where)
    names = checked(record["protocol"], CLASSES, f"{where}: protocol")
    head, scored = (_classes(names, field, f"{where}: protocol") for field in CLASSES)
    size, confusion = len(head), record["confusion"]
    for row in [confusion, *confusion]:
        whole = isinstance(row, list) and len(row) == size
        require(whole, f"{where}: field 'confusion' must be {size} x {size} counts")
    counts = all(type(n) is int and 0 <= n < LARGEST for row in confusion for n in row)
    require(counts, f"{where}: field 'confusion' holds something else than counts")
    same = tuple(record["iou"]) == scored.names
    require(same, f"{where}: field 'iou' does not have the classes of {scored.name}")
    few = len(record["validators"]) <= MOST_VALIDATORS
    require(few, f"{where}: more than {MOST_VALIDATORS} validators")
    picture = folder / PICTURE
    return Evaluation(**record, picture=picture if picture.exists() else None)


def _classes(protocol: Mapping[str, str], field: str, where: str) -> ClassSet:
    file = protocol[field].endswith(".json")  # whose name may be anything
    require(
        not file,
        f"{where}: field {field!r} must be classes, not a file of them; evaluating the run again "
        "with the job evaluate records its classes",
    )
    try:
        return class_set(protocol[field])
    except (ConfigError, DataError) as error:
        raise ConfigError(f"{where}: field {field!r}: {error}") from None


def speeds(paths: Sequence[pathlib.Path]) -> dict[str, dict[str, Any]]:
    """Reads `speed.json` files of the job benchmark.

    Returns:
      Network -> `ms` of an image at the largest `size` timed, `device`, `commit`.

    Raises:
      ConfigError: a file or field is missing, or a network was timed twice.
    """
    networks: dict[str, dict[str, Any]] = {}
    for path in paths:
        record = checked(records.read_json(path), SPEEDS, str(path))
        model, processes = record["model"], record["infer"]["ours"]
        again = f"{path}: {model} was timed by an earlier file too; give only one"
        require(model not in networks, again)
        largest = [next(reversed(process["sizes"].items()), ("", None)) for process in processes]
        times = [timed["rows"]["host"]["seconds"] for _, timed in largest if timed]
        require(times and all(times), f"{path}: infer: ours: no times of any image")
        networks[model] = {
            "ms": 1e3 * float(np.median([np.median(seconds) for seconds in times])),
            "size": largest[0][0],
            "device": f"{processes[0]['device']}, {record['cores']} cores",
            "commit": record["commit"] or "unknown",
        }
    return networks
