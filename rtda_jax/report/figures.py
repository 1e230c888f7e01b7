"""What the drawings show: curves, bars, matrices and scatter plots of boards of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtda_jax.data.labels import class_set
from rtda_jax.report import bars, plot
from rtda_jax.report.document import Panel, Panels
from rtda_jax.report.groups import Board, Group, Row, summarise

DOMAINS = {"source": 5, "target": 4}  # colours of the discriminators' curves
# What a log says about collapse: entropy of the target's softmax, classes it spreads over.
HEALTH = ("target_entropy", "target_classes")
POINTS = 160  # of a curve at most: more can not be seen and make the page heavy


def slug(words: str) -> str:
    """Words as part of a file name."""
    kept = [c if c.isalnum() else "-" for c in words.lower()]
    return "-".join(filter(None, "".join(kept).split("-")))


def class_bars(board: Board, reference: Row | None) -> Panels:
    """One panel a row: IoU of each class, its seeds, and a mark where the reference stands."""
    colours = class_set(board.protocol["classes"]).colours
    marks = _class_means(reference) if reference else {}
    panels = []
    for row in board.rows:
        shown = []
        for (name, values), rgb in zip(per_class(row).items(), colours, strict=False):
            summary = summarise(values)
            shown.append(
                bars.Bar(
                    name,
                    summary.mean if summary else None,
                    summary.values if summary else (),
                    None if row is reference else marks.get(name),
                    "#{:02x}{:02x}{:02x}".format(*rgb),
                )
            )
        drawn = bars.bars(shown, title=f"IoU per class of {row.label}", of=row.group.colour)
        panels.append(Panel(f"iou-{slug(row.label)}", drawn, row.label))
    return Panels(panels)


def per_class(row: Row) -> dict[str, list[float | None]]:
    """Class -> IoU under each seed."""
    results = list(row.results.values())
    return {name: [r.iou.get(name) for r in results] for name in results[0].iou}


def _class_means(row: Row) -> dict[str, float]:
    found = {name: summarise(values) for name, values in per_class(row).items()}
    return {name: summary.mean for name, summary in found.items() if summary}


def training_curves(groups: Sequence[Group]) -> Panels | None:
    """The loss and each term of the objective over steps, one colour a train stage."""
    stages = train_stages(groups)
    names: list[str] = []
    for one, stage in stages:
        for run in one.runs:
            if stage in run.trainings:
                terms = [t.split("·")[-1] for t in run.trainings[stage].objective.split(" + ")]
                names += [t for t in ["loss", *terms] if t not in names]
    names += HEALTH
    panels = []
    for name in names:
        series = [
            line
            for one, stage in stages
            for line in _lines(one, stage, name, colour=one.colour, dash=_dash(one, stage))
        ]
        if series:
            drawn = plot.curves(series, title=f"{name} over training steps")
            panels.append(Panel(f"curve-{slug(name)}", drawn, name))
    legend = [(plot.colour(one.colour), _dashed(one, stage)) for one, stage in stages]
    return Panels(panels, legend) if panels else None


def _dash(group: Group, stage: str) -> int:
    """Stages of one group share its colour and differ in their dashes."""
    return group.trained.index(stage) % len(plot.DASHES)


def _dashed(group: Group, stage: str) -> str:
    style = ("", ", dashed", ", dotted")[_dash(group, stage)]
    return title(group, stage) + style


def train_stages(groups: Sequence[Group]) -> list[tuple[Group, str]]:
    """Every train stage of every group, in order."""
    return [(g, stage) for g in groups for stage in g.trained]


def title(group: Group, stage: str) -> str:
    """What a train stage is called: by its group, and by its own name where there are several."""
    return f"{group.label} · {stage}" if len(group.trained) > 1 else group.label


def _lines(group: Group, stage: str, name: str, *, colour: int, dash: int = 0) -> list[plot.Series]:
    """The mean over seeds, and each seed faintly behind it where there are several."""
    curves = []
    for run in group.runs:
        rows = run.trainings[stage].rows if stage in run.trainings else ()
        points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
        if points:
            curves.append(points)
    if not curves:
        return []
    if len(curves) == 1:
        return [plot.Series(name, thin(curves[0]), colour, dash)]
    tables = [dict(points) for points in curves]
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    mean = [(step, float(np.mean([t[step] for t in tables]))) for step in shared]
    faint = [plot.Series(name, thin(points), colour, dash, faint=True) for points in curves]
    return [*faint, plot.Series(name, thin(mean), colour, dash)] if mean else faint


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of its neighbours."""
    size = -(-len(points) // POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(c[-1][0], sum(y for _, y in c) / len(c)) for c in chunks]


def levels(group: Group, stage: str) -> list[str]:
    """The discriminators that a stage's records speak of."""
    ends = "_accuracy_source"
    trainings = [run.trainings[stage] for run in group.runs if stage in run.trainings]
    keys = {key for training in trainings for row in training.rows for key in row}
    names = [key for key in keys if key.startswith("d_") and key.endswith(ends)]
    return sorted(name.removeprefix("d_").removesuffix(ends) for name in names)


def discriminators(groups: Sequence[Group]) -> Panels | None:
    """How often each discriminator is right on either domain, against chance."""
    panels = []
    for one, stage in train_stages(groups):
        for level in levels(one, stage):
            series = [
                line
                for domain, ink in DOMAINS.items()
                for line in _lines(one, stage, f"d_{level}_accuracy_{domain}", colour=ink)
            ]
            name = title(one, stage) + ("" if level == "output" else f" · {level}")
            drawn = plot.curves(
                series,
                title=f"discriminator accuracy of {name}",
                y_range=(0.0, 1.0),
                reference=(0.5, "chance"),
            )
            panels.append(Panel(f"discriminator-{slug(name)}", drawn, name))
    legend = [(plot.colour(ink), f"right on the {domain}") for domain, ink in DOMAINS.items()]
    return Panels(panels, legend) if panels else None


def confusion(row: Row, board: Board) -> Panel:
    """The confusion matrix over all seeds, every row a share of the true class's pixels."""
    names = class_set(board.protocol["head_classes"]).names
    total = np.sum([r.confusion for r in row.results.values()], axis=0)
    truth = total.sum(1)
    shares: list[list[float | None]] = [
        [None if not n else float(v / n) for v in counts]
        for counts, n in zip(total, truth, strict=True)
    ]
    drawn = bars.heatmap(
        shares, names, title=f"confusion matrix of {row.label}", of=row.group.colour
    )
    return Panel(f"confusion-{slug(row.label)}", drawn, row.label)


def against_speed(board: Board, speeds: Mapping[str, Mapping[str, Any]]) -> Panels | None:
    """Score over the time of an image, a dot a row whose network was timed."""
    dots = []
    for row in board.rows:
        timed, miou = speeds.get(row.group.config["model"]["name"]), row.miou
        if timed is None or miou is None:
            continue
        # A fused row runs every one of its networks.
        count = len(next(iter(row.results.values())).models)
        spread = None if miou.spread is None else 100 * miou.spread
        dots.append(
            plot.Dot(
                row.label,
                count * timed["ms"],
                100 * miou.mean,
                spread,
                row.group.colour,
                row.label,
            )
        )
    if not dots:
        return None
    drawn = plot.scatter(
        dots,
        title="accuracy against time of an image",
        x_label="ms an image, host to host",
        y_label="mIoU, %",
    )
    return Panels([Panel("speed", drawn, "accuracy against speed")])


def validators(board: Board, names: Sequence[str]) -> Panels:
    """The oracle's score over each validator, a dot an evaluation."""
    panels = []
    for name in names:
        dots = [
            plot.Dot(
                f"{row.label}, seed {seed}", result.validators[name] or 0.0, 100 * miou, None, ink
            )
            for row in board.rows
            for ink in (row.group.colour,)
            for seed, result in row.results.items()
            for miou in (result.miou,)
            if result.validators.get(name) is not None and miou is not None
        ]
        if dots:
            drawn = plot.scatter(
                dots, title=f"target mIoU over {name}", x_label=name, y_label="target mIoU, %"
            )
            panels.append(Panel(f"validator-{slug(name)}", drawn, name))
    inks = {row.group.label: row.group.colour for row in board.rows}
    return Panels(panels, [(plot.colour(ink), label) for label, ink in inks.items()])
