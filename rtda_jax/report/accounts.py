"""What stands behind the scores: speed, cost, commands, machines, repeats, and papers' numbers."""

import functools
import itertools
import pathlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rtda_jax.errors import one_of
from rtda_jax.report import figures
from rtda_jax.report.compare import Board, Series, differences
from rtda_jax.report.page import Block, Cell, Commands, Details, Figures, Table, Text, anchor, row
from rtda_jax.report.runs import Evaluation, Run
from rtda_jax.run.log import duration

TIMES = (
    "Time from a decoded uint8 image to its class map, one image at a time, as `--job=benchmark` "
    "measured it; a fused row is counted once for each of its networks."
)
WALL = "Wall time over seeds as each process measured it, whatever else the machine did."
VERSIONS = (
    "These runs come from versions of the code that know different fields; they count as one "
    "configuration because all fields that they share agree."
)
REPEATS = (
    "These stages have the configuration and the seed of others, which count instead of them: "
    "those of the smallest experiment, then the first by name."
)
PUBLISHED = "Published, other data, not comparable"  # title of the section
PAPERS = "Numbers as the papers print them. No number above may be held against one below."


class Paper(NamedTuple):
    """A paper's table.

    Attributes:
      title: whose it is.
      setting: what it was measured on, as far as the paper says.
      benchmarks: ours that have its source, target and classes.
      head: names of the columns.
      rows: as printed; mIoU in percent.
    """

    title: str
    setting: str
    benchmarks: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@functools.cache
def papers() -> dict[str, Paper]:
    """Returns the papers of `published.toml` by the names that --published takes."""
    text = pathlib.Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    return {name: Paper(**fields) for name, fields in tomllib.loads(text).items()}


def run_id(run: Run) -> str:
    """Returns where links to a run lead."""
    return anchor("run", run.name)


def hundredths(value: float | None) -> str:
    """Returns a fraction in percent."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def speed(board: Board, speeds: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Returns score against the time of an image, where a network of the board was timed."""
    panel = figures.against_speed(board, speeds)
    if panel is None:
        return []
    rows = [
        row(name, s["size"], f"{s['ms']:.1f}", f"{1000 / s['ms']:.1f}", s["device"], s["commit"])
        for name, s in sorted(speeds.items())
    ]
    head = ["network", "image", "ms an image", "images/s", "device", "commit"]
    return [Text(TIMES), Figures([panel]), Table(head, rows)]


def cost(trained: Sequence[Series], runs: Sequence[Run]) -> list[Block]:
    """Returns wall time and speed of every train stage, and the size of every network."""
    rows = []
    for series in trained:
        trainings = list(series.trainings.values())
        logged = list(itertools.chain(*(t.rows for t in trainings)))
        rates, waits = (
            [line[name] for line in logged if name in line]
            for name in ("images_per_second", "data_wait")
        )
        config = series.stages[0].run.config
        cells = (
            Cell(f"{trainings[0].step:,}", order=trainings[0].step),
            _times([t.seconds for t in trainings]),
            f"{np.median(rates):.1f}" if rates else "n/a",
            f"{100 * np.median(waits):.0f}%" if waits else "n/a",
            str(config["batch_size"]),
            config["model"]["name"],
        )
        rows.append(row(series.label, *cells, method=series.label))
    if not rows:
        return []
    head = ["train stage", "steps", "wall time", "images/s", "waits for data", "batch", "network"]
    trainings = [t for run in runs for t in run.trainings.values()]
    networks = sorted({w.partition(": ")[::2] for t in trainings for w in t.networks})
    sizes = Table(["network", "in training"], [row(*network) for network in networks], left=2)
    return [Table(head, rows), Text(WALL), *([sizes] if networks else [])]


def _times(seconds: Iterable[float]) -> Cell:
    low, high = min(seconds), max(seconds)
    return Cell(" to ".join(dict.fromkeys((duration(low), duration(high)))), order=low)


def provenance(
    trained: Sequence[Series], boards: Sequence[Board], runs: Sequence[Run], others: Sequence[str]
) -> list[Block]:
    """Returns a fold for each run, and whatever about their grouping has to be said."""
    blocks: list[Block] = []
    repeats = []
    for series in (series for board in boards for series in board.rows):
        for stage in series.repeats:
            mine, counts = stage.run.evaluations[stage.name], series.evaluations[stage.run.seed]
            name = Cell(f"{stage.run.name} · {stage.name}", href=run_id(stage.run))
            numbers = (str(stage.run.seed), hundredths(mine.miou), hundredths(counts.miou))
            repeats.append(row(name, series.label, *numbers, method=series.label))
    if repeats:
        head = ["stage", "method", "seed", "its mIoU, %", "what counts, %"]
        blocks += [Text(REPEATS), Table(head, repeats, left=2)]
    versions = [row(series.label, ", ".join(f)) for series in trained if (f := series.unshared)]
    if versions:
        head = ["train stage", "fields not known to all its runs"]
        blocks += [Text(VERSIONS), Table(head, versions, left=2)]
    if others:
        blocks.append(Text(f"Named, but no runs: {', '.join(others)}.".replace("`", "'")))
    blocks += [_run(run) for run in runs]
    lines = [row(field, *map(_value, values)) for field, values in differences(trained).items()]
    if lines:
        table = Table(["field", *(series.label for series in trained)], lines)
        blocks.append(Details("Fields in which the train stages differ", [table]))
    return blocks


def _value(value: Any) -> str:
    return "none" if value is None else str(value).replace("'", "")


def _differing(evaluation: Evaluation, other: Mapping[str, Any]) -> str:
    """Returns how an earlier evaluation of the same stage differs: its steps and its protocol."""
    fields, now = other["protocol"], evaluation.protocol
    differing = [f"{k} {fields[k]}" for k in sorted(fields) if now.get(k, ...) != fields[k]]
    return ", ".join([f"{other['step']:,} steps", *differing])


def _run(run: Run) -> Details:
    """Returns everything about a run: what it is, how to repeat it, what it scored, where."""
    state = "complete" if not run.missing else f"not yet: {', '.join(run.missing)}"
    title = f"{run.name} · seed {run.seed} · commit {run.commit or 'unknown'} · {state}"
    blocks: list[Block] = [Commands([run.command])] if run.command else []
    scores = []
    for name, e in run.evaluations.items():
        numbers = (hundredths(e.miou), hundredths(e.pixel_accuracy), _times([e.seconds]))
        scores.append(row(name, ", ".join(e.models), *numbers))
        for other in e.others:
            numbers = (hundredths(other["miou"]), hundredths(other["pixel_accuracy"]), Cell(""))
            scores.append(row(f"{name}, earlier: {_differing(e, other)}", "", *numbers))
    if scores:
        head = ["evaluation", "of stages", "mIoU, %", "pixel accuracy, %", "wall time"]
        blocks.append(Table(head, scores, left=2))
    machine = run.environment
    packages = machine.get("packages")
    known = {
        "python": machine.get("python", ""),
        **(packages if isinstance(packages, dict) else {}),
    }
    facts = {
        "devices": ", ".join(map(str, machine.get("devices", []))),
        "CPU cores": str(machine.get("cores", "")),
        "system": str(machine.get("platform", "")),
        "XLA_FLAGS": str(machine.get("xla_flags", "")),
        "versions": ", ".join(f"{name} {version}" for name, version in known.items()),
    }
    if machine:
        facts = {name: value for name, value in facts.items() if value}
        blocks.append(Table(["machine", ""], [row(*fact) for fact in facts.items()], left=2))
    return Details(title, blocks, run_id(run), run.experiment)


def published(benchmarks: Sequence[str], named: Sequence[str]) -> list[Block]:
    """Returns the tables of the papers that are named, and of those on the benchmarks' own data.

    Raises:
      ConfigError: a paper is not known.
    """
    wanted = {one_of(name, papers(), "paper") for name in named}
    blocks: list[Block] = []
    for name, paper in papers().items():
        if name in wanted or set(paper.benchmarks) & set(benchmarks):
            table = Table(paper.head, [row(*cells) for cells in paper.rows])
            blocks += [Text(f"{paper.title}. {paper.setting}."), table]
    return [Text(PAPERS), *blocks] if blocks else []
