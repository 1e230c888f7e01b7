"""Binds a workdir to its configuration: a stage that has begun continues only with the same fields.

A workdir is bound only to what was trained in it. Fields that monitor or evaluate a run may change,
data may move, a train stage may be given more steps, and a stage that has not begun may be changed.
A field that did not exist when a stage began binds nothing while it has its default. Each stage
that has begun records its fields in its own folder.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import rtda_jax
from rtda_jax.errors import ConfigError, lookup, printable
from rtda_jax.run import log, parallel
from rtda_jax.run.options import Fields, among, flat, only, stage_names
from rtda_jax.run.workdir import lock, read_json, write_json
from rtda_jax.tools import environment

RECORD = "bound.json"
CURRENT = f"release {rtda_jax.__version__}"

# Fields that may differ between the processes of one job.
HOST = ("data_dir", "threads", "cache_gib", "stall_seconds")

# Fields that change how a run is monitored, but not what it computes unless something fails.
FREE = (
    *HOST,
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_keep",
    "loggers",
    "on_not_finite",
    "speed",
)

# The places of a benchmark's files: moved data are the same data, see `bind_data`.
PLACES = ("images", "labels", "list", "quarantine", "store_dir")

# Of a user's own definition, the names are bound; the ids in label files may be corrected.
CLASSES = "benchmark.classes"

# The user's file that made a configuration; a change is no error, as it may change no result.
CODE = "code"

# Files that a stage derives from its configuration, its data and earlier stages before it begins.
DATA = "data.json"
DERIVED = ("class_counts.npz", "class_weights.json", DATA, "histogram*.npz")
_CHOOSE = "Choose another --workdir, or give the configuration it was made with."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """The properties of a kind of stage that are known without running one.

    Attributes:
      bound: returns the flat fields of a stage that decide what it computes.
      record: the kind of its record in results.json: "training", "scores", or "" if no report
        shows it.
      sees_target: whether its result depends on the target's images; for a training with a
        record, the objective decides this.
      reads_networks: whether the stage names the networks that it reads in `models`.
      leaves_network: whether later stages can read its network.
    """

    bound: Callable[[Fields], Fields]
    record: Literal["training", "scores", ""] = ""
    sees_target: bool = False
    reads_networks: bool = False
    leaves_network: bool = False


Kinds = Mapping[str, Traits]


def claim(workdir: pathlib.Path, config: Fields, kinds: Kinds) -> list[str]:
    """Binds a workdir, and every stage of a configuration, to that configuration.

    The configuration becomes the workdir's `config.json`. A train stage that is given more steps is
    no longer finished, and is finished again if it goes back before it has saved any of them. If
    the configuration is changed before a stage has begun, or a stage that it reads has not begun
    either, the files that it derived earlier are removed.

    Args:
      workdir: created if it does not exist; locked by this job.
      config: nested plain values, see `options.plain`.
      kinds: the table of all kinds of stages.

    Returns:
      Sentences for the user about what changes.

    Raises:
      ConfigError: as `check_bound` does, or a stage that has not begun is one from whose earlier
        result another began; nothing is changed.
    """
    path = workdir / "config.json"
    notes = check_bound(workdir, config, kinds)
    for name in stage_names(config):
        readers = _readers(workdir, config, name)
        if readers and not begun(workdir / name):
            raise ConfigError(
                f"stage {name} would be made anew, but {', '.join(readers)} began with its earlier "
                f"result; remove {', '.join(str(workdir / reader) for reader in readers)} too, or "
                "choose another --workdir"
            )
    corrected = path.exists() and _computed(read_json(path)) != _computed(config)
    for name in stage_names(config):
        folder, fields = workdir / name, bound_fields(config, name, kinds)
        sources = _sources(config, name)
        if not begun(folder) and (corrected or not all(begun(workdir / s) for s in sources)):
            for derived in (path for pattern in DERIVED for path in folder.glob(pattern)):
                derived.unlink()
        if begun(folder):
            old = _recorded(workdir, name, kinds)[1]
            fields |= only(old, (CODE,))
            then, now = old.get("steps"), fields.get("steps")
            finished, earlier = folder / "done.json", folder / f"done-{now}.json"
            if then != now and earlier.exists():
                # Rows beyond were never saved.
                log.truncate(folder / log.METRICS_FILE, after=fields["steps"])
                earlier.replace(finished)
            elif then != now and finished.exists():
                finished.replace(folder / f"done-{then}.json")
        if fields:
            write_json(folder / RECORD, {"release": rtda_jax.__version__, "fields": fields})
    write_json(path, config)
    return notes


def check_bound(workdir: pathlib.Path, config: Fields, kinds: Kinds) -> list[str]:
    """Refuses a configuration that differs from the one with which a stage of the workdir began.

    Returns:
      Sentences for the user: about train stages that are given more steps, about fields that did
      not exist in the release with which a stage began, and about changed code of the user's own.

    Raises:
      ConfigError: names every differing field with both values, or a damaged record; or no stage
        that has begun there is one of the configuration.
    """
    differing: dict[str, list[str]] = {}
    codes: dict[str, list[str]] = {}
    notes = []
    names = stage_names(config)
    there = [path.parent.name for path in sorted(workdir.glob(f"*/{RECORD}"))]
    there = [name for name in there if begun(workdir / name)]
    trains = any(bound_fields(config, name, kinds) for name in names)
    if there and trains and not set(there) & set(names):
        raise ConfigError(
            f"{workdir} holds a run of other stages: {', '.join(there)} there, {', '.join(names)} "
            f"now.\n{_CHOOSE}"
        )
    for name in names:
        if not begun(workdir / name):
            continue
        release, old = _recorded(workdir, name, kinds)
        new = without_later(bound_fields(config, name, kinds), old, config)
        for field in sorted(old.keys() | new.keys()):
            then, now = old.get(field, "absent"), new.get(field, "absent")
            if then == now or (field == CLASSES and str(then).endswith(".json")):
                continue  # earlier releases bound the path of a definition
            if field == CODE:
                if field in old:
                    row = f"{printable(then or 'none')} there, {printable(now or 'none')} now"
                    codes.setdefault(row, []).append(name)
                continue
            row = f"{field}: {printable(repr(then))} there, {printable(repr(now))} now"
            readers = _readers(workdir, config, name)
            grows = isinstance(then, int) and isinstance(now, int) and then < now
            if field == "steps" and _was_finished(workdir / name, now):
                notes.append(f"[{name}] goes back to its {now} finished steps")
                continue
            if field == "steps" and grows and not readers:
                notes.append(
                    f"[{name}] is given {now} steps instead of {then}; from here on its learning "
                    f"rate follows the schedule of {now} steps"
                )
            elif release != CURRENT and not (field in old and field in new):
                notes.append(f"[{name}] began with {release or 'an earlier release'}: {row}")
            else:
                if field == "steps" and readers:
                    row += f"; {', '.join(readers)} began with its result"
                differing.setdefault(row, []).append(name)
    notes += [
        f"[{', '.join(names)}] began with other code or arguments of a configuration of your own: "
        f"{row}; what it computes may differ"
        for row, names in codes.items()
    ]
    if differing:
        raise ConfigError(
            f"{workdir} holds a run of another configuration:\n"
            + "\n".join(f"  {row} (stage {', '.join(names)})" for row, names in differing.items())
            + f"\n{_CHOOSE}"
        )
    return notes


@contextlib.contextmanager
def hold(
    workdir: pathlib.Path, config: Fields, kinds: Kinds, *, bind: Callable[..., list[str]] = claim
) -> Iterator[list[str]]:
    """Locks a workdir for one job, binds it to the job's configuration, and yields what changes.

    All processes of the job must have the same configuration, code and packages, and see the same
    folder. Only the main process locks and claims it, so that they do not race.

    Raises:
      ConfigError: in every process; the processes differ, another job holds the folder, or `bind`
        refuses.
    """
    parallel.check_agreement(
        {f"config.{field}": value for field, value in shared_fields(config).items()}
        | {f"version of {name}": value for name, value in environment.versions().items()}
        | {"commit": environment.commit(), "source code": environment.code_digest()}
    )
    notes: list[str] = []
    with lock(workdir):
        parallel.on_main(lambda: notes.extend(bind(workdir, config, kinds)))
        path = workdir / "config.json"
        seen = path.exists() and hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        parallel.check_agreement({"config.json of the workdir, a folder that all must see": seen})
        yield notes


def begun(folder: pathlib.Path) -> bool:
    """Returns whether a stage has left files from which it would continue."""
    results = (folder / "done.json").exists() or any((folder / "labels").glob("*"))
    return results or bool(_saved_steps(folder))


def _was_finished(folder: pathlib.Path, steps: Any) -> bool:
    """Returns whether a stage was finished after some steps, and has computed nothing since."""
    newest = max(_saved_steps(folder), default=0)
    return (folder / f"done-{steps}.json").exists() and newest == steps


def _saved_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of which a stage has checkpoints."""
    names = (path.name for path in (folder / "checkpoints").glob("*"))
    return [int(name) for name in names if name.isdecimal()]


def bound_fields(config: Fields, name: str, kinds: Kinds, *, placed: bool = False) -> Fields:
    """Returns the fields that decide what a stage computes, by dotted name.

    If `placed`, the places of files are among them, and classes are their whole definition.

    Raises:
      ConfigError: the configuration is not that of an experiment, or a kind of stage is unknown.
    """
    fields = _stage_fields(config, name, kinds)
    fields = lookup(kinds, fields["kind"], "kind").bound(fields)
    return fields if placed else comparable(fields)


def without_later(fields: Fields, earlier: Fields, config: Fields) -> Fields:
    """Returns a stage's fields without those that came later and have their defaults.

    The default of a new field does what the code did before it, so that runs which began without
    the field continue.

    Args:
      fields: the stage's bound fields in the configuration.
      earlier: the fields that the stage began with.
      config: the whole configuration, whose benchmark decides some of the defaults.
    """
    if fields.keys() <= earlier.keys():
        return fields
    base = importlib.import_module("configs.base")  # it imports this module, for `begun`
    defaults = base.defaults(config["benchmark"].get("name"))
    later = {k for k in fields.keys() - earlier.keys() if k in defaults}
    return {k: v for k, v in fields.items() if k not in later or v != defaults[k]}


def shared_fields(config: Fields) -> Fields:
    """Returns the fields in which the processes of one job must agree, by dotted name."""
    return {k: v for k, v in _unplaced(flat(config)).items() if not among(k, HOST)}


def bind_data(folder: pathlib.Path, fingerprints: Mapping[str, str]) -> None:
    """Binds a stage to its data, wherever they are stored; refuses if it began with other data.

    Args:
      folder: the stage's.
      fingerprints: those of the data sets that the stage reads, by their role.

    Raises:
      ConfigError: in every process; names the role. All processes must have the same data.
    """
    parallel.check_agreement({f"data of {role}": value for role, value in fingerprints.items()})

    def record() -> None:
        old = check_fingerprints(folder, fingerprints)
        if old != {**old, **fingerprints}:
            write_json(folder / DATA, {**old, **fingerprints})

    parallel.on_main(record)


def check_fingerprints(folder: pathlib.Path, fingerprints: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the fingerprints of the data with which a stage began, by role, if it has begun.

    Raises:
      ConfigError: the given fingerprint of a role is another one.
    """
    old = read_json(folder / DATA) if begun(folder) and (folder / DATA).exists() else {}
    for role in sorted(old.keys() & fingerprints.keys()):
        if old[role] != fingerprints[role]:
            raise ConfigError(
                f"{folder} began with another {role} set: {old[role]} there, {fingerprints[role]} "
                "now. Choose another --workdir, or give the data it began with."
            )
    return old


def _stage_fields(config: Fields, name: str, kinds: Kinds) -> Fields:
    """Returns the flat fields of a stage: the experiment's fields with the stage's overrides.

    A stage that changes the network of another stage has the fields of that stage.
    """
    names = stage_names(config)
    stage, models = config["stage"][name], config["stage"][name].get("models")
    kind = lookup(kinds, stage["kind"], "kind")
    if kind.reads_networks and kind.leaves_network and isinstance(models, list) and models:
        changed = str(models[0]).partition(":")[0]
        if changed not in names[: names.index(name)]:
            raise ConfigError(f"stage {name}: {printable(changed)} is no earlier stage")
        return _stage_fields(config, changed, kinds) | flat(stage)
    return flat({k: v for k, v in config.items() if k not in ("stages", "stage")}) | flat(stage)


def _recorded(workdir: pathlib.Path, name: str, kinds: Kinds) -> tuple[str, Fields]:
    """Returns the release that began a stage, and the fields with which the stage began.

    Early releases had no record for each stage and bound the workdir as a whole.
    """
    path = workdir / name / RECORD
    if path.exists():
        record = read_json(path)
        if isinstance(record.get("fields"), dict):
            return f"release {printable(record.get('release'))}", comparable(record["fields"])
        raise ConfigError(f"{path}: not the record this program writes there")
    path = workdir / "config.json"
    try:
        return "", bound_fields(read_json(path), name, kinds)
    except (ConfigError, RecursionError, FileNotFoundError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} does not say what the stage {name} began with: {printable(error)}"
        ) from None


def comparable(fields: Fields) -> Fields:
    """Returns fields of a stage without places, and of the user's own classes their names."""
    fields = _unplaced(fields)
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # no definition
        fields[CLASSES] = [row["name"] for row in json.loads(fields[CLASSES])["classes"]]
    return fields


def _unplaced(fields: Fields) -> Fields:
    """Returns fields without places; of files of weights and definitions, only the names stay."""
    places = {k for k in fields if k.startswith("benchmark.") and k.rpartition(".")[2] in PLACES}
    return {k: _without_folder(k, v) for k, v in fields.items() if k not in places}


def _without_folder(field: str, value: Any) -> Any:
    definition = field.endswith(".labelling") and str(value).endswith(".json")
    return os.path.basename(str(value)) if definition or field == "model.pretrained" else value


def _computed(config: Fields) -> Fields:
    """Returns the fields of a whole configuration that decide what is computed."""
    return {field: value for field, value in flat(config).items() if not among(field, FREE)}


def _readers(workdir: pathlib.Path, config: Fields, name: str) -> list[str]:
    """Returns the stages, left out ones too, that began with a result; evaluations never do."""
    stages = config["stage"]
    return [other for other in stages if begun(workdir / other) and name in _sources(config, other)]


def _sources(config: Fields, name: str) -> set[str]:
    """Returns the stages whose results a stage reads itself."""
    fields = {**config, **config["stage"][name]}
    references = [fields.get(field) for field in ("init", "taught_by", "pseudo_labels")]
    references += fields.get("models") or ()
    return {str(reference).partition(":")[0] for reference in references if reference} - {name}
