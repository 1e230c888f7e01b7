"""Sections about the background of the scores: speed, cost, commands, machines, papers' numbers."""

import functools
import json
import pathlib
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rtda_jax.data.labels import is_definition
from rtda_jax.errors import one_of
from rtda_jax.report import figures
from rtda_jax.report.compare import Board, Series, Summary, differences
from rtda_jax.report.page import WORDS, Block, Cell, Details, Figures, Table, anchor
from rtda_jax.report.runs import SPEED, Evaluation, Run
from rtda_jax.run.log import duration

PUBLISHED = "Published, other data, not comparable"  # title of the section
NOTHING = "n/a"  # where there is no number


@functools.cache
def papers() -> dict[str, dict[str, Any]]:
    """Returns the papers of `published.toml` by the names that --published takes."""
    text = pathlib.Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def run_id(run: Run) -> str:
    """Returns the id that links to a run refer to."""
    return anchor("run", run.name)


def shown(score: Summary | float | None, scale: float = 100, digits: int = 1) -> str:
    """Returns mean ± sample standard deviation, in percent; a single value without a deviation."""
    if score is None:
        return NOTHING
    mean, spread = (score.mean, score.spread) if isinstance(score, Summary) else (score, None)
    deviation = "" if spread is None else f" ± {scale * spread:.{digits}f}"
    return f"{scale * mean:.{digits}f}{deviation}"


def speed(board: Board, speeds: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Returns the section on score against time per image, if a network of the board was timed."""
    panel = figures.against_speed(board, speeds)
    if panel is None:
        return []
    rows = [
        (name, s["size"], f"{s['ms']:.1f}", f"{1000 / s['ms']:.1f}", s["device"], s["commit"])
        for name, s in sorted(speeds.items())
    ]
    head = ["network", "image", "ms an image", "images/s", "device", "commit"]
    return [WORDS["speed"], Figures([panel]), Table(head, rows)]


def cost(trained: Sequence[Series], runs: Sequence[Run]) -> list[Block]:
    """Returns wall time and speed of every train stage, and the size of every network."""
    if not trained:
        return []
    rows = []
    for series in trained:
        trainings = list(series.trainings.values())
        lines = [line for training in trainings for line in training.rows]
        rates, waits = ([line[k] for line in lines if k in line] for k in SPEED)
        config = series.stages[0].run.config
        rows.append(
            (
                series.label,
                Cell(f"{trainings[0].step:,}", order=trainings[0].step),
                _times([training.seconds for training in trainings]),
                f"{np.median(rates):.1f}" if rates else NOTHING,
                f"{100 * np.median(waits):.0f}%" if waits else NOTHING,
                str(config["batch_size"]),
                config["model"]["name"],
            )
        )
    head = ["train stage", "steps", "wall time", "images/s", "waits for data", "batch", "network"]
    trainings = [t for run in runs for t in run.trainings.values()]
    networks = sorted({w.partition(": ")[::2] for t in trainings for w in t.networks})
    sizes = [Table(["network", "in training"], networks, left=2)] if networks else []
    return [Table(head, rows, method=0), WORDS["cost"], *sizes]


def _times(seconds: Iterable[float]) -> Cell:
    low, high = min(seconds), max(seconds)
    return Cell(" to ".join(dict.fromkeys((duration(low), duration(high)))), order=low)


def provenance(
    trained: Sequence[Series], boards: Sequence[Board], runs: Sequence[Run], others: Sequence[str]
) -> list[Block]:
    """Returns a fold for each run, and notes about how runs were grouped."""
    blocks: list[Block] = []
    repeats = []
    for series in (series for board in boards for series in board.rows):
        for stage in series.repeats:
            counted = series.evaluations[stage.run.seed].miou
            name = Cell(f"{stage.run.name} · {stage.name}", run_id(stage.run))
            numbers = (str(stage.run.seed), shown(stage.evaluation.miou), shown(counted))
            repeats.append((name, series.label, *numbers))
    if repeats:
        head = ["stage", "method", "seed", "its mIoU, %", "what counts, %"]
        blocks += [WORDS["repeats"], Table(head, repeats, left=2, method=1)]
    versions = [(series.label, ", ".join(f)) for series in trained if (f := series.unshared)]
    if versions:
        head = ["train stage", "fields not known to all its runs"]
        blocks += [WORDS["versions"], Table(head, versions, left=2)]
    if others:
        blocks.append(f"Named, but no runs: {', '.join(others)}.".replace("`", "'"))
    blocks += [_run(run) for run in runs]
    lines = [(field, *map(_value, values)) for field, values in differences(trained).items()]
    if lines:
        table = Table(["field", *(series.label for series in trained)], lines)
        blocks.append(Details("Fields in which the train stages differ", [table]))
    return blocks


def in_words(value: Any) -> str:
    """Returns the value of a field of a protocol, where a definition of classes has their names."""
    if isinstance(value, Mapping):
        return " ".join(str(v) for k, v in value.items() if k in ("name", "split") and v)
    if is_definition(value):
        return "the run's own" + _class_names(value)
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _class_names(definition: str) -> str:
    """Returns the first names of a definition in brackets, or nothing if it is another text."""
    try:
        names = [str(row["name"]) for row in json.loads(definition)["classes"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return f" ({textwrap.shorten(', '.join(names), 60, placeholder=' ...')})"


def _value(value: Any) -> str:
    if is_definition(value):
        return in_words(value)
    return "none" if value is None else str(value).replace("'", "")


def _run(run: Run) -> Details:
    """Returns everything about a run: configuration, command, scores and machine."""
    state = "complete" if not run.missing else f"not yet: {', '.join(run.missing)}"
    title = f"{run.name} · seed {run.seed} · commit {run.commit or 'unknown'} · {state}"
    scores = []
    for name, e in run.evaluations.items():
        numbers = (shown(e.miou), shown(e.pixel_accuracy), _times([e.seconds]))
        scores.append((name, ", ".join(e.models), *numbers))
        for other in e.others:
            numbers = (shown(other["miou"]), shown(other["pixel_accuracy"]), Cell(""))
            scores.append((f"{name}, earlier: {_differing(e, other)}", "", *numbers))
    machine = run.environment
    versions = {"python": machine["python"], **machine["packages"]}
    facts = {
        "devices": ", ".join(machine["devices"]),
        "CPU cores": str(machine["cores"] or ""),
        "system": machine["platform"],
        "XLA_FLAGS": machine["xla_flags"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }
    known = [fact for fact in facts.items() if fact[1]]
    blocks: list[Block] = []
    if scores:
        head = ["evaluation", "of stages", "mIoU, %", "pixel accuracy, %", "wall time"]
        blocks.append(Table(head, scores, left=2))
    if known:
        blocks.append(Table(["machine", ""], known, left=2))
    return Details(title, blocks, run_id(run), run.experiment, command=run.command)


def _differing(evaluation: Evaluation, other: Mapping[str, Any]) -> str:
    """Returns how an earlier evaluation of the same stage differs: its steps and its protocol."""
    fields, now = other["protocol"], evaluation.protocol
    differing = [
        f"{k} {in_words(fields[k])}" for k in sorted(fields) if now.get(k, ...) != fields[k]
    ]
    return ", ".join([f"{other['step']:,} steps", *differing])


def published(benchmarks: Sequence[str], named: Sequence[str]) -> list[Block]:
    """Returns the tables of the named papers and of papers with the benchmarks' own data.

    Raises:
      ConfigError: a paper is unknown.
    """
    wanted = {one_of(name, papers(), "paper") for name in named}
    blocks: list[Block] = []
    for name, paper in papers().items():
        if name in wanted or set(paper["benchmarks"]) & set(benchmarks):
            table = Table(paper["head"], paper["rows"])
            blocks += [f"{paper['title']}. {paper['setting']}.", table]
    return [WORDS["published"], *blocks] if blocks else []
