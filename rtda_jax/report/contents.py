"""The sections of a report: scores, then pictures, explanations, and how to repeat the runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtda_jax.data.labels import class_set
from rtda_jax.errors import printable
from rtda_jax.report import accounts, compare, figures, records
from rtda_jax.report.accounts import NOTHING, run_id, shown
from rtda_jax.report.compare import Board, Series, Stage, summarise
from rtda_jax.report.page import (
    WORDS,
    Block,
    Cell,
    Details,
    Document,
    Figures,
    Gallery,
    Table,
    anchor,
)
from rtda_jax.report.runs import LONGEST_NAME, Run
from rtda_jax.run.log import counted

MOST_DRAWINGS = 120  # drawings of a kind; a sentence gives the number of the rest
TARGET, TRUTH, PREDICTION = "target", "truth", "prediction"  # titles of a sheet's columns
SHOWN = 6  # images of each method
LARGEST_SIDE = 1024  # pixels of an image
DIRECTION = {  # whether a validator rises or falls when scores rise
    "source_miou": 1,
    "entropy": -1,
    "information_maximisation": 1,
    "nuclear_norm": 1,
    "masked_agreement": 1,
}
IMAGES_OF_SOURCE = "source_images"  # how many images source_miou read, recorded beside it


def document(
    runs: Sequence[Run],
    *,
    speeds: Mapping[str, Mapping[str, Any]],
    papers: Sequence[str],
    others: Sequence[str] = (),
) -> Document:
    """Returns the whole report about runs.

    Args:
      runs: the runs in the order of their names.
      speeds: network -> the result of `runs.speeds`.
      papers: the papers to show in addition to those with the runs' own data.
      others: folders that were named but hold no run.

    Raises:
      ConfigError: a paper is unknown, or a picture is not a run's.
    """
    trained, boards = compare.series(runs)
    names = sorted({run.benchmark for run in runs})
    sections: dict[str, list[Block]] = {}
    for board, where in zip(boards, _places(boards), strict=True):
        sections |= {
            f"Scores{where}": _scores(board, where),
            f"Predictions{where}": _predictions(board),
            f"Methods{where}": _methods(board, where),
            f"Validation without target labels{where}": _validation(board),
            f"Speed against accuracy{where}": accounts.speed(board, speeds),
        }
    sections |= {
        "Training": _training(trained),
        "Discriminators": _discriminators(trained),
        "Cost": accounts.cost(trained, runs),
        "Runs and commands": accounts.provenance(trained, boards, runs, others),
        accounts.PUBLISHED: accounts.published(names, papers),
    }
    seeds = sorted({run.seed for run in runs})
    lead = (
        f"{counted(len(runs), 'run')}, {counted(sum(len(b.rows) for b in boards), 'method')}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; everything here is read from "
        "the runs' own records."
    )
    filled = {title: blocks for title, blocks in sections.items() if blocks}
    return Document(", ".join(names), lead, _facts(boards), filled)


def _places(boards: Sequence[Board]) -> list[str]:
    """Returns what each board's headings add: its benchmark, or nothing if it is the only board."""
    if len(boards) == 1:
        return [""]
    names = [board.benchmark for board in boards]
    return [
        f" on {name}" + (f", protocol {names[: i + 1].count(name)}" * (names.count(name) > 1))
        for i, name in enumerate(names)
    ]


def _facts(boards: Sequence[Board]) -> list[tuple[str, str]]:
    """Returns the main numbers, those of the budget that most rows have."""
    if len(boards) != 1:
        return []
    board = boards[0]
    budgets = [series.budget for series in board.rows]
    budget = max(budgets, key=lambda b: (budgets.count(b), -b))
    lower, upper = board.ends(budget)
    best = board.best(budget)
    ends = [(lower, "source only"), (upper, "oracle, trained on target labels")]
    if best is not None and best is not lower:
        ends.insert(1, (best, f"{best.label}, best adapted"))
    facts = [
        (shown(series.miou), f"mIoU, %: {words}")
        for series, words in ends
        if series and series.miou
    ]
    gap = board.gap_closed(best) if best else None
    return facts if gap is None else [*facts, (f"{100 * gap:.0f}%", "of the gap closed")]


def _method_id(series: Series, where: str) -> str:
    return anchor("method", series.label + where)


def _scores(board: Board, where: str) -> list[Block]:
    seeds = sorted({seed for series in board.rows for seed in series.evaluations})
    scores: list[Sequence[str | Cell]] = []
    classes: list[Sequence[str | Cell]] = []
    for series in board.rows:
        link, best = _method_id(series, where), series is board.best(series.budget)
        stages = {stage.run.seed: stage for stage in series.stages}
        accuracies = [e.pixel_accuracy for e in series.evaluations.values()]
        gap = board.gap_closed(series)
        scores.append(
            (
                Cell(series.label + " (oracle)" * series.oracle, link, best),
                Cell(f"{series.budget:,}", order=series.budget),
                Cell(shown(series.miou) + " (one seed)" * (len(stages) == 1), link, best),
                *(_seed(stages.get(seed)) for seed in seeds),
                shown(summarise(accuracies)),
                "" if gap is None else f"{100 * gap:.0f}%",
            )
        )
        ious = (series.miou, *series.iou.values())
        means = [Cell(shown(iou and iou.mean), shade=iou.mean if iou else 0.0) for iou in ious]
        classes.append((Cell(series.label, link), *means))
    head = ["method", "steps", "mIoU, %", *(f"seed {seed}" for seed in seeds)]
    pairs = enumerate(itertools.pairwise(board.rows), 1)
    ruled = {i for i, (above, below) in pairs if above.budget != below.budget}
    about = ", ".join(f"{k} {accounts.in_words(v)}" for k, v in sorted(board.protocol.items()))
    about = about.replace("`", "'")  # a backtick would mark code
    counts = sorted({e.images for series in board.rows for e in series.evaluations.values()})
    small = f" {WORDS['streets']}" if board.benchmark == "streets" else ""
    return [
        Table([*head, "pixel accuracy, %", "gap closed"], scores, method=0, ruled=ruled),
        WORDS["scores"],
        f"Protocol: {' or '.join(map(str, counts))} images, {about}.{small}",
        Table(["IoU, %", "mean", *board.rows[0].iou], classes, method=0, ruled=ruled),
    ]


def _seed(stage: Stage | None) -> Cell:
    return Cell(shown(stage.evaluation.miou), run_id(stage.run)) if stage else Cell("")


def _predictions(board: Board) -> list[Block]:
    pictures = gallery(board)
    return [WORDS["predictions"], pictures] if pictures.columns else []


def gallery(board: Board) -> Gallery:
    """Returns target, truth and each row's prediction, from its first seed that has a picture.

    There is no truth where images were evaluated without labels. A picture without a description of
    its cells, or with other images than the first picture, is left out.

    Raises:
      ConfigError: a picture is not a run's.
    """
    columns: list[tuple[str, Sequence[np.ndarray]]] = []
    for series in board.rows:
        path = next((e.picture for e in series.evaluations.values() if e.picture), None)
        cells = records.read_cells(path) if path else {}
        if not {TARGET, PREDICTION} <= cells.keys():
            continue
        small = {title: [_small(image) for image in cells[title][:SHOWN]] for title in cells}
        given = [(f"({title})", small[title]) for title in (TARGET, TRUTH) if title in small]
        if not columns:
            columns.extend(given)
        if _same(given[-1][1], columns[len(given) - 1][1]):
            columns.append((series.label, small[PREDICTION]))
    known = class_set(board.protocol["head_classes"])
    return Gallery(columns, known.names, known.colours)


def _same(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return len(images) == len(others) and all(map(np.array_equal, images, others))


def _small(image: np.ndarray) -> np.ndarray:
    """Returns a copy of an image, reduced if a side is longer than `LARGEST_SIDE`."""
    step = -(-max(image.shape[:2]) // LARGEST_SIDE)
    return image[::step, ::step].copy()


def _methods(board: Board, where: str) -> list[Block]:
    """Returns a fold for each row; the best of the first budget is open."""
    blocks: list[Block] = [WORDS["methods"]]
    head = ["seed", "run", "stage", "mIoU, %", "pixel accuracy, %"]
    for series in board.rows:
        rows = []
        for stage in series.stages:
            run, e = stage.run, stage.evaluation
            name = Cell(run.name, run_id(run))
            rows.append((str(run.seed), name, stage.name, shown(e.miou), shown(e.pixel_accuracy)))
        inner: list[Block] = [Table(head, rows, left=3)]
        if series.miou is not None:
            panels = [figures.class_bars(series, board), figures.confusion(series, board)]
            inner.insert(0, Figures(panels))
        title = f"{series.label} · {shown(series.miou)} · {series.budget:,} steps"
        first = series is board.best(board.rows[0].budget)
        blocks.append(Details(title, inner, _method_id(series, where), series.label, first))
    return blocks


def _training(trained: Sequence[Series]) -> list[Block]:
    names = figures.terms(trained)
    panels = [figures.training_curve(name, trained) for name in names[:MOST_DRAWINGS]]
    keys = [figures.Key(s.label, s.colour, s.dash) for s in trained]
    return [WORDS["training"] + _left_out(names), Figures(panels, keys)] if panels else []


def _left_out(items: Sequence[Any]) -> str:
    return f" Drawn are {MOST_DRAWINGS} of {len(items)}." if len(items) > MOST_DRAWINGS else ""


def _discriminators(trained: Sequence[Series]) -> list[Block]:
    judged = [(series, level) for series in trained for level in figures.levels(series)]
    rows = []
    for series, level in judged:
        source, target = (_late(series, f"d_{level}_accuracy_{d}") for d in figures.DOMAINS)
        if source is not None and target is not None:
            numbers = (source, target, (source + target) / 2)
            rows.append((series.label, level, *(f"{n:.2f}" for n in numbers), reading(numbers[2])))
    if not rows:
        return []
    keys = [figures.Key(f"right on the {d}", colour) for d, colour in figures.DOMAINS.items()]
    panels = [figures.discriminator(*pair) for pair in judged[:MOST_DRAWINGS]]
    head = ["train stage", "level", "source", "target", "balanced", "reads as"]
    text = WORDS["discriminators"] + _left_out(judged)
    return [text, Table(head, rows, left=2, method=0), Figures(panels, keys)]


def _late(series: Series, key: str) -> float | None:
    """Returns the mean of a logged number over seeds and the last quarter of training."""
    values: list[float] = []
    for training in series.trainings.values():
        last = max((line["step"] for line in training.rows), default=0)
        values += [r[key] for r in training.rows if key in r and r["step"] > 0.75 * last]
    return float(np.mean(values)) if values else None


def reading(balanced: float) -> str:
    """Returns the interpretation of a discriminator's balanced accuracy."""
    if balanced < 0.55:
        return "at chance: deceived, or not learning"
    return "saturated" if balanced > 0.95 else "contested"


def _validation(board: Board) -> list[Block]:
    evaluations = [e for series in board.rows for e in series.evaluations.values()]
    measured = {name for e in evaluations for name in e.validators}
    known = [name for name in DIRECTION if name in measured]
    own = sorted(measured - {*known, IMAGES_OF_SOURCE})  # of a user's own configuration
    names = [*known, *own]
    if not names:
        return []
    rows = []
    for series in board.rows:
        cells = []
        for name in names:
            score = summarise([e.validators.get(name) for e in series.evaluations.values()])
            cells.append(shown(score) if name == "source_miou" else shown(score, 1, 3))
        rows.append((series.label, *cells, shown(series.miou)))
    head = ["validator", "rank correlation with target mIoU", "evaluations"]
    drawn = [panel for name in known if (panel := figures.validator(name, board))]
    experiments = {s.stages[0].run.experiment: s.colour for s in board.rows}
    keys = [figures.Key(name, colour) for name, colour in experiments.items()]
    columns = [printable(name, limit=LONGEST_NAME) for name in names]
    scores = Table(["method", *columns, "target mIoU, % (oracle)"], rows, method=0)
    ranks = Table(head, [correlation(name, board) for name in known])
    compared = [ranks, WORDS["ranks"], Figures(drawn, keys)] if drawn else []
    unranked = [WORDS["own_validators"]] if own else []
    return [WORDS["validation"], scores, *unranked, *compared]


def correlation(name: str, board: Board) -> tuple[str, str, str]:
    """Returns a validator, its rank correlation with target mIoU, and the number of scores."""
    both = [
        (e.validators.get(name), e.miou)
        for series in board.rows
        for e in series.evaluations.values()
    ]
    pairs = [(DIRECTION[name] * a, b) for a, b in both if a is not None and b is not None]
    rank = compare.spearman(pairs)
    return name, NOTHING if rank is None else f"{rank:+.2f}", str(len(pairs))
