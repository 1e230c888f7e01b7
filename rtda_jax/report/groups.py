"""Runs of one configuration under several seeds, and the tables they may share."""

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rtda_jax.errors import ConfigError
from rtda_jax.report.runs import Evaluation, Run
from rtda_jax.run.binding import FREE
from rtda_jax.run.workdir import flat
from rtda_jax.stages.plan import parse

# Parts of a protocol that two numbers must share to stand in one table.
COMPARED = (
    "split",
    "classes",
    "head_classes",
    "mode",
    "window",
    "stride",
    "scales",
    "mirror",
    "input_size",
    "resolution",
    "align",
)


class Summary(NamedTuple):
    """Values of several seeds: mean and sample standard deviation (None of a single one)."""

    mean: float
    spread: float | None
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, in the order of their seeds."""

    label: str
    runs: Sequence[Run]
    colour: int = 0

    @property
    def config(self) -> Mapping[str, Any]:
        """That of the first; the others differ from it in the seed."""
        return self.runs[0].config

    @property
    def unshared(self) -> list[str]:
        """Fields that not all of its runs' versions know."""
        known = [settings(run.config).keys() for run in self.runs]
        return sorted(set().union(*known) - set(known[0]).intersection(*known))

    @property
    def trained(self) -> list[str]:
        """The train stages that any of its runs has finished."""
        return list(dict.fromkeys(stage for run in self.runs for stage in run.trainings))


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluate stage of a group: a line of a table."""

    label: str
    group: Group
    stage: str
    results: Mapping[int, Evaluation]

    @property
    def miou(self) -> Summary | None:
        """Over seeds."""
        return summarise([r.miou for r in self.results.values()])

    @property
    def oracle(self) -> bool:
        """Whether labels of the target supervise it."""
        return self.group.config.get("labelled") == "target"

    @property
    def source_only(self) -> bool:
        """Whether nothing of the target was used: only segmentation terms, source as it is."""
        plain = not self.oracle
        for run in self.group.runs:
            models = self.results[run.seed].models if run.seed in self.results else ()
            plain &= all(_saw_source_only(run, name) for name, _ in map(parse, models))
        return plain


@dataclasses.dataclass(frozen=True)
class Board:
    """Rows whose numbers may be compared: one benchmark, one protocol."""

    benchmark: str
    protocol: Mapping[str, Any]
    rows: Sequence[Row]


def summarise(values: Sequence[float | None]) -> Summary | None:
    """Mean and spread of the values there are; None of none."""
    known = tuple(v for v in values if v is not None and math.isfinite(v))
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return Summary(statistics.fmean(known), spread, known)


def group(runs: Sequence[Run]) -> list[Group]:
    """Runs by configuration; labels come from their folders' names and are made distinct.

    Runs of one name under other versions of the code are one configuration where they agree in
    every field that both know; `Group.unshared` names the fields that not all of them know.

    Raises:
      ConfigError: two runs are of the same configuration and seed.
    """
    found: list[dict[int, Run]] = []
    for run in runs:
        for same in found:
            if run.seed in same and settings(same[run.seed].config) == settings(run.config):
                raise ConfigError(
                    f"report: {same[run.seed].name} and {run.name} are one configuration with one "
                    f"seed ({run.seed}); give one of them"
                )
        home = next((g for g in found if run.seed not in g and _alike(run, g.values())), None)
        if home is None:
            found.append(home := {})
        home[run.seed] = run
    groups = [Group(_label(g[min(g)]), [g[s] for s in sorted(g)]) for g in found]
    taken: dict[str, int] = {}
    for one in groups:
        taken[one.label] = taken.get(one.label, 0) + 1
    groups = [
        dataclasses.replace(g, label=g.runs[0].name) if taken[g.label] > 1 else g for g in groups
    ]
    groups.sort(key=lambda g: g.label)
    return [dataclasses.replace(g, colour=i) for i, g in enumerate(groups)]


def _alike(run: Run, others: Iterable[Run]) -> bool:
    mine = settings(run.config)
    for other in others:
        theirs = settings(other.config)
        shared = mine.keys() & theirs.keys()
        if mine != theirs and _label(run) != _label(other):
            return False
        if any(mine[field] != theirs[field] for field in shared):
            return False
    return True


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields that decide what a run computes, all but the seed."""
    free = ("seed", *FREE)
    return {
        field: value
        for field, value in flat(dict(config)).items()
        if not any(field == f or field.startswith(f"{f}.") for f in free)
    }


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Field -> its value in each group, for the fields that are not the same in all."""
    tables = [settings(g.config) for g in groups]
    fields = sorted(set().union(*tables))
    rows = {field: [table.get(field, "absent") for table in tables] for field in fields}
    return {
        field: values
        for field, values in rows.items()
        if len({json.dumps(v) for v in values}) > 1 and not field.startswith("stage.")
    }


def boards(groups: Sequence[Group]) -> list[Board]:
    """The tables: rows by benchmark and protocol, each in the order of its scores."""
    found: dict[tuple[str, str], list[Row]] = {}
    for one in groups:
        by_key: dict[tuple[str, str, str], dict[int, Evaluation]] = {}
        for run in one.runs:
            for stage, result in run.evaluations.items():
                shared = {k: result.protocol[k] for k in COMPARED if k in result.protocol}
                key = run.benchmark, json.dumps(shared, sort_keys=True), stage
                by_key.setdefault(key, {})[run.seed] = result
        several = len({stage for _, _, stage in by_key}) > 1
        for (benchmark, protocol, stage), results in by_key.items():
            label = f"{one.label} · {stage}" if several else one.label
            found.setdefault((benchmark, protocol), []).append(Row(label, one, stage, results))
    return [
        Board(benchmark, json.loads(protocol), sorted(rows, key=_order))
        for (benchmark, protocol), rows in sorted(found.items(), key=lambda item: item[0])
    ]


def _saw_source_only(run: Run, stage: str) -> bool:
    if stage not in run.trainings:  # a statistics stage looks at the target
        return False
    fields = {**run.config, **run.config["stage"][stage]}
    terms = [t.split("·")[-1] for t in run.trainings[stage].objective.split(" + ")]
    plain = fields.get("fda_beta") is None and not fields.get("init")
    return plain and all(re.fullmatch(r"seg(_aux\d+)?", t) for t in terms)


def _order(row: Row) -> tuple[int, float, str]:
    """Source only, then what adapts by its score, then the oracle."""
    miou = row.miou
    end = 2 if row.oracle else 1 - row.source_only
    return (end, -1.0 if miou is None else miou.mean, row.label)


def _label(run: Run) -> str:
    """The workdir's name without a trailing seed."""
    return re.sub(r"[-_./](?:s|seed)[-_=]?\d+$", "", run.name) or run.name
