"""Groups the stages of runs by configuration, and decides which numbers may be compared.

Stages of one configuration are one series wherever they lie, also in experiments of different
names. Two numbers stand in one table if they share the benchmark and the protocol; the best is
marked, and the gap is measured, only among those of the same number of training steps.
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

# Parts of a protocol that two numbers must share to stand in one table.
PROTOCOL = (
    *("split", "classes", "head_classes", "mode", "window", "stride", "scales", "mirror"),
    *("input_size", "resolution", "align"),
)
COLOURS = 8  # that the page has
REFERENCES = ("init", "taught_by", "pseudo_labels")  # fields that may name an earlier stage
IMAGES, LABELS = "images", "labels"  # what of the target a network has seen


class Summary(NamedTuple):
    """Values of several seeds: mean and sample standard deviation (None of a single value)."""

    mean: float
    spread: float | None
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
      fields: flat, what decides its result; an earlier stage stands as the number of its series.
      budget: training steps behind it: of its own and of the stages that it builds on, one after
        the other; of several fused networks the longest.
      seen: what of the target its network has seen, IMAGES or LABELS.
    """

    run: Run
    name: str
    fields: Mapping[str, Any]
    budget: int
    seen: frozenset[str]

    @property
    def kind(self) -> Traits:
        """What is known of stages of its kind."""
        return self.run.kinds[self.name]

    @property
    def evaluation(self) -> Evaluation:
        """What it measured, if it is an evaluation that is finished."""
        return self.run.evaluations[self.name]

    @property
    def measured(self) -> bool:
        """Whether it has a result."""
        return self.name not in self.run.missing

    @property
    def label(self) -> str:
        """The experiment's name, and the stage's where there are several of its kind."""
        several = list(self.run.kinds.values()).count(self.kind) > 1
        return f"{self.run.experiment} · {self.name}" if several else self.run.experiment


@dataclasses.dataclass(frozen=True)
class Series:
    """Stages that differ in their seed only.

    Attributes:
      label: what the report calls it; distinct among those it stands with.
      stages: one for each seed, in the order of seeds.
      repeats: others of the same configuration and seed, which do not count.
      colour, dash: numbers of how it is drawn; stages of an experiment differ in the dash.
    """

    label: str
    stages: Sequence[Stage]
    repeats: Sequence[Stage]
    colour: int
    dash: int

    @property
    def evaluations(self) -> dict[int, Evaluation]:
        """What evaluate stages measured, by seed."""
        return {s.run.seed: s.evaluation for s in self.stages}

    @property
    def trainings(self) -> dict[int, Training]:
        """What train stages recorded, by seed."""
        return {s.run.seed: s.run.trainings[s.name] for s in self.stages}

    @property
    def budget(self) -> int:
        """Training steps behind it."""
        return self.stages[0].budget

    @property
    def oracle(self) -> bool:
        """Whether labels of the target supervise it."""
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
        """Fields that not all of its runs' versions know."""
        known = [stage.fields.keys() for stage in (*self.stages, *self.repeats)]
        return sorted(set().union(*known) - set(known[0]).intersection(*known))


@dataclasses.dataclass(frozen=True)
class Board:
    """Evaluations whose numbers may stand in one table: one benchmark, one protocol."""

    benchmark: str
    protocol: Mapping[str, Any]
    rows: Sequence[Series]

    def best(self, budget: int) -> Series | None:
        """Returns the highest mean of several seeds at a budget that no target label helped.

        None where there is nothing to compare it with.
        """
        fair = [
            (row.miou.mean, row)
            for row in self.rows
            if row.budget == budget and not row.oracle and row.miou and row.miou.spread is not None
        ]
        return max(fair, key=lambda pair: pair[0])[1] if len(fair) > 1 else None

    def ends(self, budget: int) -> tuple[Series | None, Series | None]:
        """Returns source only and the oracle at a budget: the only one of its kind, or so called.

        A row is called by its label, else by its stage where that is `eval_` and the name.
        """
        rows = [row for row in self.rows if row.budget == budget]
        lower = [row for row in rows if row.source_only]
        upper = [row for row in rows if row.oracle]
        return _only(lower, "source_only"), _only(upper, "target_only")

    def gap_closed(self, row: Series) -> float | None:
        """Returns the share of the way from source only to the oracle, of mean mIoU.

        None where the way is no longer than the two ends' spreads together: it would be noise.
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
    """Returns mean and spread of the values there are; None of none."""
    known = tuple(v for v in values if v is not None and math.isfinite(v))
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return Summary(statistics.fmean(known), spread, known)


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Returns Spearman's rank correlation, ties sharing the mean of their ranks.

    None of fewer than three pairs or where one side is constant.
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

    Runs of one name under several versions of the code are one configuration where they agree in
    every field that both know; `Series.unshared` names the fields that not all of them know.
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
    """Returns a planned stage; `earlier` has the ones before it and the numbers of their groups."""
    kind, training, evaluation = run.kinds[name], run.trainings.get(name), run.evaluations.get(name)
    fields = {k: v for k, v in run.fields[name].items() if k != "seed"}
    models = fields.pop("models", [])
    if evaluation is not None:
        shared = {k: evaluation.protocol[k] for k in PROTOCOL if k in evaluation.protocol}
        models = evaluation.models
        fields = {"benchmark": run.benchmark, "protocol": json.dumps(shared, sort_keys=True)}
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
    """Tells whether a stage is of the configuration of others, under any seed."""
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

    The experiment of the fewest stages names a series, and its stage counts where others repeat it.
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
        # Colours come round again; a dash tells experiments of one colour apart as well.
        dash = colour // COLOURS + (trained.index(home.name) if record == "training" else 0)
        gathered.append(Series(home.label, counted, repeats, colour, dash))
    return gathered


def _distinct(rows: Sequence[Series]) -> list[Series]:
    """Returns rows whose labels differ: those of one label get their runs' names, or numbers."""
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
    """Orders by budget: source only, then what adapts by its score, then the oracle."""
    end = 2 if row.oracle else 1 - row.source_only
    return (row.budget, end, -1.0 if row.miou is None else row.miou.mean, row.label)


def differences(trained: Sequence[Series]) -> dict[str, list[Any]]:
    """Returns field -> its value in each series, for the fields that are not the same in all."""
    tables = [row.stages[0].fields for row in trained]
    fields = sorted(set().union(*tables) - set(REFERENCES) - {"kind"})
    values = {field: [table.get(field, "absent") for table in tables] for field in fields}
    return {f: row for f, row in values.items() if len({json.dumps(v) for v in row}) > 1}
