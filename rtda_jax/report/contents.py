"""The sections of a report, in the order people ask: how good, what does it look like, why, how."""

from collections.abc import Mapping, Sequence
from typing import Any

from rtda_jax.errors import ConfigError
from rtda_jax.report import accounts, figures, tables
from rtda_jax.report.document import (
    Block,
    Commands,
    Details,
    Document,
    Fact,
    Panels,
    Section,
    Table,
    Text,
)
from rtda_jax.report.gallery import gallery
from rtda_jax.report.groups import Board, Group, Row, boards, group
from rtda_jax.report.published import PUBLISHED
from rtda_jax.report.runs import Run

SCORES = (
    "Mean ± sample standard deviation over seeds, final step of each model, one confusion matrix "
    "over the whole split; ignored pixels count nowhere. Bold is the highest mean of several seeds "
    "that no target label helped; a single seed is never bold. An oracle is trained on target "
    "labels. Gap closed is the share of the way from source only to the oracle."
)
BUILT_IN = (
    "`streets` is a small built-in benchmark: its numbers say nothing about real data sets and "
    "must not stand beside theirs."
)
VALIDATION = (
    "Scores that need no target label, from the same pass over the target's images, and mIoU on "
    "held-out source images; entropies are in nats. The last column reads the target's labels: it "
    "is an oracle, it stands here only to show what the others are worth, and nothing was chosen "
    "by it."
)
DISCRIMINATORS = (
    "How often a discriminator is right. At chance on both domains it tells the generator nothing "
    "and may be deceived or broken; near 1 on both its gradient to the generator fades. The table "
    "takes the last quarter of training."
)


def document(
    runs: Sequence[Run],
    *,
    speeds: Mapping[str, Mapping[str, Any]],
    published: Sequence[str],
) -> Document:
    """Everything there is to say about these runs.

    Raises:
      ConfigError: two runs are the same, or a paper is not known.
    """
    groups = group(runs)
    compared = boards(groups)
    names = sorted({run.benchmark for run in runs})
    places = _places(compared)
    sections = []
    for board, where in zip(compared, places, strict=True):
        sections += [_scores(board, where), *_looks(board, where)]
    sections += _training(groups)
    for board, where in zip(compared, places, strict=True):
        sections += [*_confusions(board, where), *_validation(board, where)]
        sections += _speed(board, speeds, where)
    sections += [_cost(groups), _provenance(groups, runs), *_published(names, published)]
    seeds = sorted({run.seed for run in runs})
    lead = (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {len(groups)} "
        f"configuration{'s' * (len(groups) > 1)}, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}; everything here is read from the runs' own records."
    )
    return Document(", ".join(names), lead, _facts(compared), [s for s in sections if s.blocks])


def _places(compared: Sequence[Board]) -> list[str]:
    """What headings call each board: nothing if there is one, else its benchmark."""
    if len(compared) == 1:
        return [""]
    names = [board.benchmark for board in compared]
    return [
        f" on {name}" + (f", protocol {names[: i + 1].count(name)}" * (names.count(name) > 1))
        for i, name in enumerate(names)
    ]


def _facts(compared: Sequence[Board]) -> list[Fact]:
    if len(compared) != 1:
        return []
    board = compared[0]
    lower, upper = tables.ends(board)
    first = tables.best(board)
    named: list[tuple[Row | None, str]] = [
        (lower, "source only"),
        (first if first is not lower else None, f"{first.label}, best adapted" if first else ""),
        (upper, "oracle, trained on target labels"),
    ]
    facts = [Fact(tables.percent(row.miou), f"mIoU, %: {says}") for row, says in named if row]
    gap = tables.gap_closed(first, lower, upper) if first else None
    return facts if gap is None else [*facts, Fact(f"{100 * gap:.0f}%", "of the gap closed")]


def _scores(board: Board, where: str) -> Section:
    lower, _ = tables.ends(board)
    about = ", ".join(f"{k} {_words(v)}" for k, v in sorted(board.protocol.items()))
    counts = sorted({r.images for row in board.rows for r in row.results.values()})
    small = f" {BUILT_IN}" if board.benchmark == "streets" else ""
    blocks: list[Block] = [
        tables.scores(board),
        Text(SCORES),
        Text(f"Protocol: {' or '.join(map(str, counts))} images, {about}.{small}"),
        tables.classes(board),
    ]
    if lower is not None:
        blocks.append(
            Text("Bars: mean IoU in percent, dots the seeds, the upright mark source only.")
        )
    return Section(f"Scores{where}", [*blocks, figures.class_bars(board, lower)])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(v) for k, v in value.items() if k in ("name", "split") and v)
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _looks(board: Board, where: str) -> list[Section]:
    shown, sheets = gallery(board)
    says = Text("The same images through every method, of its first seed.")
    blocks: list[Block] = [says, *shown] if shown else []
    if sheets:
        blocks.append(Details("Whole sheets, as the runs drew them", sheets))
    return [Section(f"Predictions{where}", blocks)]


def _training(groups: Sequence[Group]) -> list[Section]:
    curves, judged = figures.training_curves(groups), figures.discriminators(groups)
    table = tables.discriminators(groups)
    sections = []
    if curves:
        says = "Mean over seeds, each seed faintly behind it."
        sections.append(Section("Training", [Text(says), curves]))
    if judged and table:
        blocks: list[Block] = [Text(DISCRIMINATORS), judged, table]
        sections.append(Section("Discriminators", blocks))
    return sections


def _confusions(board: Board, where: str) -> list[Section]:
    panels = [figures.confusion(row, board) for row in board.rows]
    says = "Rows are the truth, columns the prediction; shade is the share of the row, all seeds."
    return [Section(f"Confusion{where}", [Text(says), Panels(panels)])]


def _validation(board: Board, where: str) -> list[Section]:
    table, ranks = tables.validators(board), tables.correlations(board)
    if not table or not ranks:
        return []
    signs = "Rank correlation is Spearman's; entropy enters with its sign turned, so +1 is perfect."
    dots = figures.validators(board, tables.validated(board))
    blocks: list[Block] = [Text(VALIDATION), table, ranks, Text(signs), dots]
    return [Section(f"Validation without target labels{where}", blocks)]


def _speed(board: Board, speeds: Mapping[str, Mapping[str, Any]], where: str) -> list[Section]:
    drawn = figures.against_speed(board, speeds)
    if drawn is None:
        return []
    says = (
        "Time from a decoded uint8 image to its class map, one image at a time, as "
        "`--job=benchmark` measured it; a fused row is counted once for each of its networks."
    )
    blocks: list[Block] = [Text(says), drawn, accounts.speeds(speeds)]
    return [Section(f"Speed against accuracy{where}", blocks)]


def _cost(groups: Sequence[Group]) -> Section:
    says = "Wall time over seeds as each process measured it, whatever else the machine did."
    networks = accounts.networks(groups)
    return Section("Cost", [accounts.cost(groups), Text(says), *([networks] if networks else [])])


def _provenance(groups: Sequence[Group], runs: Sequence[Run]) -> Section:
    blocks: list[Block] = [accounts.provenance(groups)]
    commands = [run.command for g in groups for run in g.runs if run.command]
    if commands:
        blocks.append(Commands(commands))
    differing = accounts.settings(groups) if len(groups) > 1 else None
    if differing:
        blocks.append(Details("Fields in which the configurations differ", [differing]))
    blocks.append(Details("Machine and versions", [accounts.environments(runs)]))
    return Section("Runs and commands", blocks)


def _published(benchmarks: Sequence[str], named: Sequence[str]) -> list[Section]:
    for name in named:
        if name not in PUBLISHED:
            known = ", ".join(PUBLISHED)
            raise ConfigError(f"report: unknown paper {name!r}; known: {known}")
    shown = [
        paper
        for name, paper in PUBLISHED.items()
        if name in named or set(paper.benchmarks) & set(benchmarks)
    ]
    blocks: list[Block] = []
    for paper in shown:
        blocks += [
            Text(f"{paper.title}. {paper.setting}."),
            Table(paper.head, [list(row) for row in paper.rows]),
        ]
    title = "Published, other data, not comparable"
    says = "Numbers as the papers print them. No number above may be held against one below."
    return [Section(title, [Text(says), *blocks])] if blocks else []
