"""Groups the stages of runs by configuration, and decides which numbers may be compared.

Stages with the same configuration are one series, wherever they are stored and whatever their
experiments are called. Two numbers are in the same table if they share the benchmark and the
protocol. Only among those with the same number of training steps is the best marked and the gap
measured.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rtda_jax.report.runs import Evaluation, Run, Training
from rtda_jax.run.binding import Traits

# The parts of a protocol that two numbers must share to be in the same table. Records lack some of
# them where they have their defaults.
PROTOCOL = (
    *("split", "classes", "head_classes", "mode", "window", "stride", "scales", "mirror"),
    *("input_size", "resize", "resolution", "align", "output", "absent"),
)
COLOURS = 8  # colours of the page
REFERENCES = ("init", "taught_by", "pseudo_labels")  # fields that may name an earlier stage
IMAGES, LABELS = "images", "labels"  # what a network has seen of the target


class Summary(NamedTuple):
    """Values of several seeds: mean and sample standard deviation (None for a single value)."""

    mean: float
    spread: float | None
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
      fields: the flat fields that decide its result; an earlier stage is represented by the number
        of its series.
      budget: the training steps behind it: its own and those of the stages that it builds on, one
        after the other; for several fused networks, the longest.
      seen: what its network has seen of the target, IMAGES or LABELS.
    """

    run: Run
    name: str
    fields: Mapping[str, Any]
    budget: int
    seen: frozenset[str]

    @property
    def kind(self) -> Traits:
        """The traits of its kind of stage."""
        return self.run.kinds[self.name]

    @property
    def evaluation(self) -> Evaluation:
        """Its scores, if it is a finished evaluation."""
        return self.run.evaluations[self.name]

    @property
    def measured(self) -> bool:
        """Whether it has a result."""
        return self.name not in self.run.missing

    @property
    def label(self) -> str:
        """The experiment's name, followed by the stage's name if there are several of its kind."""
        several = list(self.run.kinds.values()).count(self.kind) > 1
        return f"{self.run.experiment} · {self.name}" if several else self.run.experiment


@dataclasses.dataclass(frozen=True)
class Series:
    """Stages that differ only in their seed.

    Attributes:
      label: its name in the report; unique within its table.
      stages: one for each seed, in the order of seeds.
      repeats: other stages of the same configuration and seed, which are not counted.
      colour, dash: the numbers of its colour and dash; stages of an experiment differ in the dash.
    """

    label: str
    stages: Sequence[Stage]
    repeats: Sequence[Stage]
    colour: int
    dash: int

    @property
    def evaluations(self) -> dict[int, Evaluation]:
        """The results of evaluate stages, by seed."""
        return {s.run.seed: s.evaluation for s in self.stages}

    @property
    def trainings(self) -> dict[int, Training]:
        """The records of train stages, by seed."""
        return {s.run.seed: s.run.trainings[s.name] for s in self.stages}

    @property
    def budget(self) -> int:
        """Training steps behind it."""
        return self.stages[0].budget

    @property
    def oracle(self) -> bool:
        """Whether it is trained on labels of the target."""
        return any(LABELS in stage.seen for stage in self.stages)

    @property
    def source_only(self) -> bool:
        """Whether nothing of the target was used."""
        return not any(stage.seen for stage in self.stages)

    @property
    def miou(self) -> Summary | None:
        """Mean intersection over union over seeds, a fraction."""
        return summarise([e.miou for e in self.evaluations.values()])

    @property
    def iou(self) -> dict[str, Summary | None]:
        """Intersection over union of each class over seeds, a fraction."""
        results = list(self.evaluations.values())
        return {name: summarise([e.iou[name] for e in results]) for name in results[0].iou}

    @property
    def unshared(self) -> list[str]:
        """Fields that do not exist in all versions of the code that its runs used."""
        known = [stage.fields.keys() for stage in (*self.stages, *self.repeats)]
        return sorted(set().union(*known) - set(known[0]).intersection(*known))


@dataclasses.dataclass(frozen=True)
class Board:
    """Evaluations whose numbers may be in the same table: one benchmark, one protocol."""

    benchmark: str
    protocol: Mapping[str, Any]
    rows: Sequence[Series]

    def best(self, budget: int) -> Series | None:
        """Returns the row with the highest mean of several seeds at a budget, without target
        labels.

        None if there is nothing to compare it with.
        """
        fair = [
            (row.miou.mean, row)
            for row in self.rows
            if row.budget == budget and not row.oracle and row.miou and row.miou.spread is not None
        ]
        return max(fair, key=lambda pair: pair[0])[1] if len(fair) > 1 else None

    def ends(self, budget: int) -> tuple[Series | None, Series | None]:
        """Returns the rows of source only and of the oracle at a budget.

        Each is the only row of its kind, or the one with that name. A row is named by its label, or
        else by its stage if that is `eval_` and the name.
        """
        rows = [row for row in self.rows if row.budget == budget]
        lower = [row for row in rows if row.source_only]
        upper = [row for row in rows if row.oracle]
        return _only(lower, "source_only"), _only(upper, "target_only")

    def gap_closed(self, row: Series) -> float | None:
        """Returns which share of the gap between source only and oracle a mean mIoU closes.

        None if the gap is not larger than the sum of both standard deviations, because the share
        would then be noise.
        """
        lower, upper = self.ends(row.budget)
        if lower is None or upper is None or row in (lower, upper):
            return None
        here, low, high = row.miou, lower.miou, upper.miou
        if here is None or low is None or high is None:
            return None
        way = high.mean - low.mean
        noise = (low.spread or 0.0) + (high.spread or 0.0)
        return (here.mean - low.mean) / way if way > noise else None


def _only(rows: Sequence[Series], label: str) -> Series | None:
    if len(rows) == 1:
        return rows[0]
    called = [row for row in rows if row.label == label]
    staged = [row for row in rows if row.stages[0].name == f"eval_{label}"]
    return next(iter(called + staged), None)


def summarise(values: Sequence[float | None]) -> Summary | None:
    """Returns mean and standard deviation of the values that are not None, if there are any."""
    known = tuple(v for v in values if v is not None and math.isfinite(v))
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return Summary(statistics.fmean(known), spread, known)


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Returns Spearman's rank correlation; ties share the mean of their ranks.

    None for fewer than three pairs or if one side is constant.
    """
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    ranks = np.zeros((2, len(pairs)))
    for i, side in enumerate(zip(*pairs, strict=True)):
        _, place, counts = np.unique(side, return_inverse=True, return_counts=True)
        ranks[i] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def series(runs: Sequence[Run]) -> tuple[list[Series], list[Board]]:
    """Returns the trainings, and the boards of evaluations, of runs in the order of their names.

    Runs with the same name from different versions of the code have the same configuration if they
    agree in every field that both versions have; `Series.unshared` names the other fields.
    """
    groups: list[list[Stage]] = []
    for run in runs:
        earlier: dict[str, tuple[int, Stage]] = {}
        for name in run.kinds:
            stage = _stage(run, name, earlier)
            group = next((g for g, those in enumerate(groups) if _alike(stage, those)), None)
            if group is None:
                group = len(groups)
                groups.append([])
            groups[group].append(stage)
            earlier[name] = group, stage
    experiments = sorted({run.experiment for run in runs})
    trained = _gather(groups, "training", experiments)
    tables: dict[tuple[str, str], list[Series]] = {}
    for row in _gather(groups, "scores", experiments):
        key = row.stages[0].run.benchmark, row.stages[0].fields["protocol"]
        tables.setdefault(key, []).append(row)
    boards = [
        Board(benchmark, json.loads(protocol), sorted(_distinct(rows), key=_order))
        for (benchmark, protocol), rows in sorted(tables.items())
    ]
    return sorted(_distinct(trained), key=lambda s: s.label), boards


def _stage(run: Run, name: str, earlier: Mapping[str, tuple[int, Stage]]) -> Stage:
    """Returns a planned stage; `earlier` has earlier stages and the numbers of their series."""
    kind, training, evaluation = run.kinds[name], run.trainings.get(name), run.evaluations.get(name)
    fields = {k: v for k, v in run.fields[name].items() if k != "seed"}
    models = fields.pop("models", [])
    if evaluation is not None:
        protocol, models = evaluation.protocol, evaluation.models
        shared = {k: protocol[k] for k in PROTOCOL if k in protocol}
        fields = {
            "benchmark": run.benchmark,
            "protocol": json.dumps(shared, sort_keys=True),
            "fusion": protocol.get("upsampled", ""),
        }
    named = {f"models.{i}": model for i, model in enumerate(models)}
    named |= {k: fields[k] for k in REFERENCES if isinstance(fields.get(k), str) and fields[k]}
    origins = []
    for field, reference in named.items():
        stage, _, weights = reference.partition(":")
        if stage in earlier:
            group, origin = earlier[stage]
            origins.append(origin)
            fields[field] = [group, weights]
        else:
            fields[field] = reference
    seen = frozenset[str]().union(*(origin.seen for origin in origins))
    plain = training and all(term.split("_aux")[0] == "seg" for term in training.terms)
    plain = plain and fields.get("fda_beta") is None
    if (kind.sees_target and not plain) or len(origins) < len(named):
        seen |= {IMAGES}
    if fields.get("labelled") == "target":
        seen |= {LABELS}
    steps = training.step if training else 0
    budget = steps + max((origin.budget for origin in origins), default=0)
    if evaluation is not None:
        budget = budget or evaluation.step
    return Stage(run, name, fields, budget, seen)


def _alike(stage: Stage, others: Sequence[Stage]) -> bool:
    """Returns whether a stage has the same configuration as others, whatever their seeds."""
    known = False
    for other in others:
        same = stage.fields == other.fields
        if stage.kind != other.kind or (stage.run.seed == other.run.seed and not same):
            return False
        shared = stage.fields.keys() & other.fields.keys()
        if not same and any(stage.fields[field] != other.fields[field] for field in shared):
            return False
        known = known or same or stage.label == other.label
    return known


def _gather(
    groups: Sequence[Sequence[Stage]], record: str, experiments: Sequence[str]
) -> list[Series]:
    """Returns the series of the stages that have a result of a kind.

    A series is named after its experiment with the fewest stages. If several stages have the same
    seed, the one of this experiment is used.
    """
    gathered = []
    for group in groups:
        stages = [s for s in group if s.kind.record == record and s.measured]
        if not stages:
            continue
        stages.sort(key=lambda s: (len(s.run.kinds), s.run.name, s.name))
        home = stages[0]
        by_seed: dict[int, Stage] = {}
        for stage in stages:
            by_seed.setdefault(stage.run.seed, stage)
        counted = [by_seed[seed] for seed in sorted(by_seed)]
        repeats = [stage for stage in stages if stage not in counted]
        trained = [name for name, k in home.run.kinds.items() if k.record == "training"]
        colour = experiments.index(home.run.experiment)
        # Colours repeat; a dash distinguishes experiments with the same colour.
        dash = colour // COLOURS + (trained.index(home.name) if record == "training" else 0)
        gathered.append(Series(home.label, counted, repeats, colour, dash))
    return gathered


def _distinct(rows: Sequence[Series]) -> list[Series]:
    """Returns rows with unique labels: rows with equal labels get their runs' names, or numbers."""
    labels = [row.label for row in rows]
    for i, row in enumerate(rows):
        if [r.label for r in rows].count(row.label) > 1:
            labels[i] = row.label.replace(row.stages[0].run.experiment, row.stages[0].run.name, 1)
    numbered = [
        f"{label} ({labels[: i + 1].count(label)})" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    ]
    return [dataclasses.replace(r, label=label) for r, label in zip(rows, numbered, strict=True)]


def _order(row: Series) -> tuple[int, int, float, str]:
    """Orders by budget: first source only, then adapted rows by score, then the oracle."""
    end = 2 if row.oracle else 1 - row.source_only
    return (row.budget, end, -1.0 if row.miou is None else row.miou.mean, row.label)


def differences(trained: Sequence[Series]) -> dict[str, list[Any]]:
    """Returns field -> its value in each series, for fields that differ between series."""
    tables = [row.stages[0].fields for row in trained]
    fields = sorted(set().union(*tables) - set(REFERENCES) - {"kind"})
    values = {field: [table.get(field, "absent") for table in tables] for field in fields}
    return {f: row for f, row in values.items() if len({json.dumps(v) for v in row}) > 1}
