"""The sections of a report, in the order people ask: how good, what does it look like, why, how."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtda_jax.data.labels import class_set
from rtda_jax.report import accounts, compare, figures, records
from rtda_jax.report.accounts import hundredths, run_id
from rtda_jax.report.compare import Board, Series, Stage, Summary, summarise
from rtda_jax.report.page import (
    Block,
    Cell,
    Details,
    Document,
    Figures,
    Gallery,
    Table,
    Text,
    anchor,
    row,
)
from rtda_jax.report.runs import Run

MOST_DRAWINGS = 120  # of a kind; the rest is counted in words
TARGET, TRUTH, PREDICTION = "target", "truth", "prediction"  # titles of a sheet's columns
SHOWN = 6  # images of each method
LARGEST_SIDE = 1024  # pixels of an image
DIRECTION = {
    "source_miou": 1,
    "entropy": -1,
    "information_maximisation": 1,
    "nuclear_norm": 1,
    "masked_agreement": 1,
}

SCORES = (
    "Mean ± sample standard deviation over seeds, final step of each model, one confusion matrix "
    "over the whole split; ignored pixels count nowhere. Steps are all training steps behind a "
    "network, also those of the networks that it continues or whose labels it learns. Only rows of "
    "the same steps are compared: bold is the highest mean of several seeds among them that no "
    "target label helped, where there is more than one. An oracle is trained on target labels. Gap "
    "closed is the share of the way from source only to the oracle, left out where that way is "
    "within their spreads."
)
BUILT_IN = (
    "`streets` is a small built-in benchmark: its numbers say nothing about real data sets and "
    "must not stand beside theirs."
)
BARS = (
    "Bars are means, dots the seeds, an upright mark is source only at the same steps. Of the "
    "confusion, rows are the truth and columns the prediction, over all seeds."
)
VALIDATION = (
    "Scores that need no target label, from the same pass over the target's images, and mIoU on "
    "held-out source images; entropies are in nats. The last column reads the target's labels: it "
    "is an oracle, it stands here only to show what the others are worth, and nothing was chosen "
    "by it."
)
SIGNS = "Rank correlation is Spearman's; entropy enters with its sign turned, so +1 is perfect."
DISCRIMINATORS = (
    "How often a discriminator is right. At chance on both domains it tells the generator nothing "
    "and may be deceived or broken; near 1 on both its gradient to the generator fades. The table "
    "takes the last quarter of training."
)


def document(
    runs: Sequence[Run],
    *,
    speeds: Mapping[str, Mapping[str, Any]],
    papers: Sequence[str],
    others: Sequence[str] = (),
) -> Document:
    """Returns everything there is to say about runs.

    Args:
      runs: in the order of their names.
      speeds: network -> what `runs.speeds` read.
      papers: to show besides those whose data the runs are on.
      others: folders that were named but hold no run.

    Raises:
      ConfigError: a paper is not known, or a picture is not a run's.
    """
    trained, boards = compare.series(runs)
    names = sorted({run.benchmark for run in runs})
    sections: list[tuple[str, list[Block]]] = []
    for board, where in zip(boards, _places(boards), strict=True):
        sections += [
            (f"Scores{where}", _scores(board, where)),
            (f"Predictions{where}", _predictions(board)),
            (f"Methods{where}", _methods(board, where)),
            (f"Validation without target labels{where}", _validation(board)),
            (f"Speed against accuracy{where}", accounts.speed(board, speeds)),
        ]
    sections += [
        ("Training", _training(trained)),
        ("Discriminators", _discriminators(trained)),
        ("Cost", accounts.cost(trained, runs)),
        ("Runs and commands", accounts.provenance(trained, boards, runs, others)),
        (accounts.PUBLISHED, accounts.published(names, papers)),
    ]
    rows = sum(len(board.rows) for board in boards)
    seeds = sorted({run.seed for run in runs})
    lead = (
        f"{_count(len(runs), 'run')}, {_count(rows, 'method')}, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}; everything here is read from the runs' own records."
    )
    shown = [(title, blocks) for title, blocks in sections if blocks]
    return Document(", ".join(names), lead, _facts(boards), shown)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _places(boards: Sequence[Board]) -> list[str]:
    """Returns what headings add for each board: nothing for the only one, else its benchmark."""
    if len(boards) == 1:
        return [""]
    names = [board.benchmark for board in boards]
    return [
        f" on {name}" + (f", protocol {names[: i + 1].count(name)}" * (names.count(name) > 1))
        for i, name in enumerate(names)
    ]


def _facts(boards: Sequence[Board]) -> list[tuple[str, str]]:
    """Returns the numbers to be seen first, of the budget that most rows have."""
    if len(boards) != 1:
        return []
    board = boards[0]
    budgets = [series.budget for series in board.rows]
    budget = max(budgets, key=lambda b: (budgets.count(b), -b))
    lower, upper = board.ends(budget)
    best = board.best(budget)
    named = [(lower, "source only")]
    if best is not None and best is not lower:
        named.append((best, f"{best.label}, best adapted"))
    named.append((upper, "oracle, trained on target labels"))
    facts = [(percent(s.miou), f"mIoU, %: {words}") for s, words in named if s]
    gap = board.gap_closed(best) if best else None
    return facts if gap is None else [*facts, (f"{100 * gap:.0f}%", "of the gap closed")]


def percent(summary: Summary | None) -> str:
    """Returns mean ± sample standard deviation in percent; a single value without."""
    if summary is None:
        return "n/a"
    spread = "" if summary.spread is None else f" ± {100 * summary.spread:.1f}"
    return f"{100 * summary.mean:.1f}{spread}"


def _method_id(series: Series, where: str) -> str:
    return anchor("method", series.label + where)


def _scores(board: Board, where: str) -> list[Block]:
    seeds = sorted({seed for series in board.rows for seed in series.evaluations})
    rows, classes = [], []
    budget = board.rows[0].budget
    for series in board.rows:
        rule = series.budget != budget
        budget, strong = series.budget, series is board.best(series.budget)
        href, label = _method_id(series, where), series.label + " (oracle)" * series.oracle
        miou = percent(series.miou) + " (one seed)" * (len(series.stages) == 1)
        stages = {stage.run.seed: stage for stage in series.stages}
        gap = board.gap_closed(series)
        cells: list[str | Cell] = [
            Cell(label, href, strong),
            Cell(f"{budget:,}", order=budget),
            Cell(miou, href, strong),
            *(_seed(stages.get(seed)) for seed in seeds),
            percent(summarise([e.pixel_accuracy for e in series.evaluations.values()])),
            "" if gap is None else f"{100 * gap:.0f}%",
        ]
        rows.append(row(*cells, method=series.label, rule=rule))
        means = [_shaded(mean) for mean in (series.miou, *series.iou.values())]
        line = row(Cell(series.label, href), *means, method=series.label, rule=rule)
        classes.append(line)
    head = ["method", "steps", "mIoU, %", *(f"seed {s}" for s in seeds)]
    about = ", ".join(f"{k} {_words(v)}" for k, v in sorted(board.protocol.items()))
    about = about.replace("`", "'")  # which would set code
    counts = sorted({e.images for series in board.rows for e in series.evaluations.values()})
    small = f" {BUILT_IN}" if board.benchmark == "streets" else ""
    return [
        Table([*head, "pixel accuracy, %", "gap closed"], rows),
        Text(SCORES),
        Text(f"Protocol: {' or '.join(map(str, counts))} images, {about}.{small}"),
        Table(["IoU, %", "mean", *board.rows[0].iou], classes),
    ]


def _seed(stage: Stage | None) -> Cell:
    if stage is None:
        return Cell("")
    return Cell(hundredths(stage.run.evaluations[stage.name].miou), href=run_id(stage.run))


def _shaded(score: Summary | None) -> Cell:
    if score is None:
        return Cell("n/a")
    return Cell(hundredths(score.mean), shade=min(max(score.mean, 0.0), 1.0))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(v) for k, v in value.items() if k in ("name", "split") and v)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return "the run's own"  # classes, by their whole definition
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _predictions(board: Board) -> list[Block]:
    gallery, sheets = galleries(board)
    blocks: list[Block] = []
    if gallery:
        blocks += [
            Text("The same images through every method, of its first seed that kept a picture."),
            gallery,
        ]
    if sheets:
        blocks.append(Details("Whole sheets, as the runs drew them", [sheets]))
    return blocks


def galleries(board: Board) -> tuple[Gallery | None, Gallery | None]:
    """Returns target, truth and each row's prediction, of its first seed that has a picture.

    The second gallery has the sheets that are left whole, because they do not say what their cells
    are (those of older runs) or show other images than the first.

    Raises:
      ConfigError: a picture is not a run's.
    """
    columns: list[tuple[str, Sequence[np.ndarray]]] = []
    sheets: list[tuple[str, Sequence[np.ndarray]]] = []
    truth: Sequence[np.ndarray] | None = None
    for series in board.rows:
        path = next((e.picture for e in series.evaluations.values() if e.picture), None)
        if path is None:
            continue
        sheet = records.open_sheet(path)
        cells = _first(records.read_cells(sheet, path))
        if not _comparable(cells, truth):
            sheets.append((series.label, [_small(np.asarray(sheet.convert("RGB")))]))
            continue
        if truth is None:
            truth = cells[TRUTH]
            columns = [(f"({name})", [_small(c) for c in cells[name]]) for name in (TARGET, TRUTH)]
        columns.append((series.label, [_small(cell) for cell in cells[PREDICTION]]))
    known = class_set(board.protocol["head_classes"])
    gallery = Gallery(columns, known.names, known.colours) if columns else None
    return gallery, Gallery(sheets) if sheets else None


def _first(cells: records.Cells | None) -> records.Cells:
    """Returns the images of each column that are shown; nothing of a sheet without cells."""
    return {title: column[:SHOWN] for title, column in (cells or {}).items()}


def _comparable(cells: records.Cells, truth: Sequence[np.ndarray] | None) -> bool:
    if not {TARGET, TRUTH, PREDICTION} <= cells.keys():
        return False
    return truth is None or (
        len(cells[TRUTH]) == len(truth)
        and all(np.array_equal(a, b) for a, b in zip(cells[TRUTH], truth, strict=True))
    )


def _small(image: np.ndarray) -> np.ndarray:
    """Returns a copy of an image, reduced where a side is longer than `LARGEST_SIDE`."""
    step = -(-max(image.shape[:2]) // LARGEST_SIDE)
    return image[::step, ::step].copy()


def _methods(board: Board, where: str) -> list[Block]:
    """Returns a fold for each row; the best of the first budget is open."""
    blocks: list[Block] = [Text(BARS)]
    for series in board.rows:
        rows = []
        for stage in series.stages:
            e, name = stage.run.evaluations[stage.name], Cell(stage.run.name, run_id(stage.run))
            numbers = (hundredths(e.miou), hundredths(e.pixel_accuracy))
            rows.append(row(str(stage.run.seed), name, stage.name, *numbers))
        head = ["seed", "run", "stage", "mIoU, %", "pixel accuracy, %"]
        panels = [figures.class_bars(series, board), figures.confusion(series, board)]
        title = f"{series.label} · {percent(series.miou)} · {series.budget:,} steps"
        shown = series is board.best(board.rows[0].budget)
        inner: list[Block] = [Figures(panels), Table(head, rows, left=3)]
        blocks.append(Details(title, inner, _method_id(series, where), series.label, shown))
    return blocks


def _training(trained: Sequence[Series]) -> list[Block]:
    names = figures.terms(trained)
    panels = [figures.training_curve(name, trained) for name in names[:MOST_DRAWINGS]]
    keys = [figures.Key(s.label, s.colour, s.dash) for s in trained]
    text = Text("Mean over seeds, each seed faintly behind it." + _left_out(names))
    return [text, Figures(panels, keys)] if panels else []


def _left_out(items: Sequence[Any]) -> str:
    return f" Drawn are {MOST_DRAWINGS} of {len(items)}." if len(items) > MOST_DRAWINGS else ""


def _discriminators(trained: Sequence[Series]) -> list[Block]:
    judged = [(series, level) for series in trained for level in figures.levels(series)]
    rows = []
    for series, level in judged:
        source, target = (_late(series, f"d_{level}_accuracy_{d}") for d in ("source", "target"))
        if source is not None and target is not None:
            numbers = (source, target, (source + target) / 2)
            cells = (level, *(f"{n:.2f}" for n in numbers), reading(numbers[2]))
            rows.append(row(series.label, *cells, method=series.label))
    if not rows:
        return []
    keys = [figures.Key(f"right on the {d}", colour) for d, colour in figures.DOMAINS.items()]
    panels = [figures.discriminator(*pair) for pair in judged[:MOST_DRAWINGS]]
    head = ["train stage", "level", "source", "target", "balanced", "reads as"]
    text = Text(DISCRIMINATORS + _left_out(judged))
    return [text, Table(head, rows, left=2), Figures(panels, keys)]


def _late(series: Series, key: str) -> float | None:
    """Returns the mean over seeds and the last quarter of training of a logged number."""
    values: list[float] = []
    for training in series.trainings.values():
        last = max((line["step"] for line in training.rows), default=0)
        values += [r[key] for r in training.rows if key in r and r["step"] > 0.75 * last]
    return float(np.mean(values)) if values else None


def reading(balanced: float) -> str:
    """Returns what a discriminator's balanced accuracy says."""
    if balanced < 0.55:
        return "at chance: deceived, or not learning"
    return "saturated" if balanced > 0.95 else "contested"


def _validation(board: Board) -> list[Block]:
    evaluations = [e for series in board.rows for e in series.evaluations.values()]
    names = [n for n in DIRECTION if any(n in e.validators for e in evaluations)]
    if not names:
        return []
    rows = []
    for series in board.rows:
        cells = []
        for name in names:
            score = summarise([e.validators.get(name) for e in series.evaluations.values()])
            cells.append(percent(score) if name.endswith("miou") else _thousandths(score))
        rows.append(row(series.label, *cells, percent(series.miou), method=series.label))
    table = Table(["method", *names, "target mIoU, % (oracle)"], rows)
    ranks = Table(
        ["validator", "rank correlation with target mIoU", "evaluations"],
        [row(*correlation(name, board)) for name in names],
    )
    panels = [panel for name in names if (panel := figures.validator(name, board))]
    experiments = {s.stages[0].run.experiment: s for s in board.rows}
    keys = [figures.Key(name, s.colour) for name, s in experiments.items()]
    return [Text(VALIDATION), table, ranks, Text(SIGNS), Figures(panels, keys)]


def _thousandths(score: Summary | None) -> str:
    if score is None:
        return "n/a"
    return f"{score.mean:.3f}" + ("" if score.spread is None else f" ± {score.spread:.3f}")


def correlation(name: str, board: Board) -> tuple[str, str, str]:
    """Returns a validator, its rank correlation with the target's mIoU, and of how many scores."""
    both = [
        (e.validators.get(name), e.miou)
        for series in board.rows
        for e in series.evaluations.values()
    ]
    pairs = [(DIRECTION[name] * a, b) for a, b in both if a is not None and b is not None]
    rank = compare.spearman(pairs)
    return name, "n/a" if rank is None else f"{rank:+.2f}", str(len(pairs))
