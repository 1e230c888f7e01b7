"""The tables of a report."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from rtda_jax.report import figures
from rtda_jax.report.document import Cell, Strong, Table
from rtda_jax.report.groups import Board, Group, Row, Summary, summarise

# Which way a validator points: +1 where more is better.
DIRECTION = {"source_miou": 1, "entropy": -1, "information_maximisation": 1, "nuclear_norm": 1}


def percent(summary: Summary | None) -> str:
    """Mean ± sample standard deviation in percent; a single value without."""
    if summary is None:
        return "n/a"
    if summary.spread is None:
        return f"{100 * summary.mean:.1f}"
    return f"{100 * summary.mean:.1f} ± {100 * summary.spread:.1f}"


def best(board: Board) -> Row | None:
    """The highest mean of several seeds that no target label helped; None if there is none."""
    fair = [
        (row.miou.mean, row)
        for row in board.rows
        if not row.oracle and row.miou is not None and row.miou.spread is not None
    ]
    return max(fair, key=lambda pair: pair[0])[1] if len(fair) > 1 else None


def ends(board: Board) -> tuple[Row | None, Row | None]:
    """The source-only row and the oracle: the only one of its kind, or the one so called.

    A row is called by its label, else by its stage where that is `eval_` and the name.
    """
    lower = [row for row in board.rows if row.source_only]
    upper = [row for row in board.rows if row.oracle]
    return _only(lower, "source_only"), _only(upper, "target_only")


def _only(rows: Sequence[Row], label: str) -> Row | None:
    if len(rows) == 1:
        return rows[0]
    called = [row for row in rows if row.label == label]
    staged = [row for row in rows if row.stage == f"eval_{label}"]
    return next(iter(called + staged), None)


def gap_closed(row: Row, lower: Row | None, upper: Row | None) -> float | None:
    """Share of the way from source only to the oracle, of mean mIoU.

    None where the way is no longer than the two ends' spreads together: it would be noise.
    """
    if lower is None or upper is None or row in (lower, upper):
        return None
    here, low, high = row.miou, lower.miou, upper.miou
    if here is None or low is None or high is None:
        return None
    way = high.mean - low.mean
    noise = (low.spread or 0.0) + (high.spread or 0.0)
    return (here.mean - low.mean) / way if way > noise else None


def scores(board: Board) -> Table:
    """mIoU with spread and seeds, pixel accuracy, share of the gap."""
    lower, upper = ends(board)
    first = best(board)
    rows: list[list[Cell]] = []
    for row in board.rows:
        miou = row.miou
        text = percent(miou)
        accuracy = summarise([r.pixel_accuracy for r in row.results.values()])
        seeds = "  ".join(_percent(r.miou) for r in row.results.values())
        gap = gap_closed(row, lower, upper)
        label = f"{row.label} (oracle)" if row.oracle else row.label
        rows.append(
            [
                Strong(label) if row is first else label,
                Strong(text) if row is first else text,
                seeds if len(row.results) > 1 else "one seed",
                percent(accuracy),
                "" if gap is None else f"{100 * gap:.0f}%",
            ]
        )
    head = ["method", "mIoU, %", "each seed", "pixel accuracy, %", "gap closed"]
    return Table(head, rows)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def classes(board: Board) -> Table:
    """Mean IoU of every class, a row a method."""
    names = list(figures.per_class(board.rows[0]))
    rows: list[list[Cell]] = []
    for row in board.rows:
        means = [summarise(values) for values in figures.per_class(row).values()]
        cells = [_percent(s.mean if s else None) for s in means]
        rows.append([row.label, _percent(row.miou.mean if row.miou else None), *cells])
    return Table(["IoU, %", "mean", *names], rows)


def discriminators(groups: Sequence[Group]) -> Table | None:
    """Accuracy over the last quarter of training, mean of both domains and of seeds."""
    rows: list[list[Cell]] = []
    for group, stage in figures.train_stages(groups):
        for level in figures.levels(group, stage):
            source, target = (_late(group, stage, level, d) for d in ("source", "target"))
            if source is None or target is None:
                continue
            balanced = (source + target) / 2
            rows.append(
                [
                    figures.title(group, stage),
                    level,
                    f"{source:.2f}",
                    f"{target:.2f}",
                    f"{balanced:.2f}",
                    reading(balanced),
                ]
            )
    head = ["train stage", "level", "source", "target", "balanced", "reads as"]
    return Table(head, rows) if rows else None


def reading(balanced: float) -> str:
    """What a discriminator's balanced accuracy says."""
    if balanced < 0.55:
        return "at chance: deceived, or not learning"
    return "saturated" if balanced > 0.95 else "contested"


def _late(group: Group, stage: str, level: str, domain: str) -> float | None:
    values = []
    for run in group.runs:
        training = run.trainings.get(stage)
        rows = [] if training is None else training.rows
        last = max((row["step"] for row in rows), default=0)
        key = f"d_{level}_accuracy_{domain}"
        values += [r[key] for r in rows if r["step"] > 0.75 * last and r.get(key) is not None]
    return float(np.mean(values)) if values else None


def validators(board: Board) -> Table | None:
    """Each validator of each row beside the mIoU that the target's labels give."""
    names = validated(board)
    if not names:
        return None
    rows: list[list[Cell]] = []
    for row in board.rows:
        cells: list[Cell] = [row.label]
        for name in names:
            found = summarise([r.validators.get(name) for r in row.results.values()])
            if name.endswith("miou"):
                cells.append(percent(found))
            elif found is None:
                cells.append("n/a")
            else:
                spread = "" if found.spread is None else f" ± {found.spread:.3f}"
                cells.append(f"{found.mean:.3f}{spread}")
        rows.append([*cells, percent(row.miou)])
    return Table(["method", *names, "target mIoU, % (oracle)"], rows)


def correlations(board: Board) -> Table | None:
    """Spearman's rank correlation of each validator with the oracle, over all evaluations."""
    names = validated(board)
    rows: list[list[Cell]] = []
    for name in names:
        both = [
            (result.validators.get(name), result.miou)
            for row in board.rows
            for result in row.results.values()
        ]
        pairs = [(DIRECTION[name] * a, b) for a, b in both if a is not None and b is not None]
        found = spearman(pairs)
        rows.append([name, "n/a" if found is None else f"{found:+.2f}", str(len(pairs))])
    head = ["validator", "rank correlation with target mIoU", "evaluations"]
    return Table(head, rows) if rows else None


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation; None of fewer than three pairs or where one side is constant."""
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def validated(board: Board) -> list[str]:
    """The validators that any of its evaluations has."""
    known = {n for row in board.rows for r in row.results.values() for n in r.validators}
    return [name for name in DIRECTION if name in known]
