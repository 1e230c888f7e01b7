"""What the runs took and where they come from: cost, speed, settings, machines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtda_jax.report import figures
from rtda_jax.report.document import Cell, Table
from rtda_jax.report.groups import Group, differences
from rtda_jax.report.runs import Run
from rtda_jax.run.log import duration


def cost(groups: Sequence[Group]) -> Table:
    """Wall time and speed of every train stage, and of the evaluations together."""
    rows: list[list[Cell]] = []
    for group in groups:
        for stage in group.trained:
            made = [run.trainings[stage] for run in group.runs if stage in run.trainings]
            rates = [r["images_per_second"] for t in made for r in t.rows if _timed(r)]
            waits = [r["data_wait"] for t in made for r in t.rows if _timed(r)]
            rows.append(
                [
                    figures.title(group, stage),
                    f"{made[0].step:,}",
                    _times([t.seconds for t in made]),
                    f"{np.median(rates):.1f}" if rates else "n/a",
                    f"{100 * np.median(waits):.0f}%" if waits else "n/a",
                    str(group.config["batch_size"]),
                    group.config["model"]["name"],
                ]
            )
        seconds = [
            sum(e.seconds for e in run.evaluations.values())
            for run in group.runs
            if run.evaluations
        ]
        if any(seconds):
            rows.append([f"{group.label}: evaluation", "", _times(seconds), "", "", "", ""])
    head = ["stage", "steps", "wall time", "images/s", "waits for data", "batch", "network"]
    return Table(head, rows)


def networks(groups: Sequence[Group]) -> Table | None:
    """Parameters and multiply-accumulates of every network that was trained."""
    said = {
        words.partition(": ")[::2]
        for group in groups
        for run in group.runs
        for training in run.trainings.values()
        for words in training.networks
    }
    rows = [list(pair) for pair in sorted(said)]
    return Table(["network", "in training"], rows, left=2) if rows else None


def _timed(row: Mapping[str, Any]) -> bool:
    return row.get("images_per_second") is not None and row.get("data_wait") is not None


def _times(seconds: Sequence[float]) -> str:
    low, high = duration(min(seconds)), duration(max(seconds))
    return low if low == high else f"{low} to {high}"


def speeds(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was timed, a row a network."""
    rows = [
        [name, s["size"], f"{s['ms']:.1f}", f"{1000 / s['ms']:.1f}", s["device"], s["commit"]]
        for name, s in sorted(found.items())
    ]
    head = ["network", "image", "ms an image", "images/s", "device", "commit"]
    return Table(head, rows)


def provenance(groups: Sequence[Group]) -> Table:
    """Which run is which: folder, seed, commit, steps, what is missing."""
    rows: list[list[Cell]] = []
    for group in groups:
        for run in group.runs:
            state = "complete" if not run.missing else f"not yet: {', '.join(run.missing)}"
            rows.append([group.label, run.name, str(run.seed), run.commit or "unknown", state])
    return Table(["method", "workdir", "seed", "commit", "stages"], rows, left=2)


def versions(groups: Sequence[Group]) -> Table | None:
    """Methods whose runs do not know the same fields, and these."""
    rows = [[g.label, ", ".join(f"`{field}`" for field in g.unshared)] for g in groups]
    rows = [row for row in rows if row[1]]
    return Table(["method", "fields not known to all its runs"], rows, left=2) if rows else None


def settings(groups: Sequence[Group]) -> Table | None:
    """The fields in which the configurations differ."""
    found = differences(groups)
    if not found:
        return None
    rows = [[f"`{field}`", *(_value(v) for v in values)] for field, values in found.items()]
    return Table(["field", *(g.label for g in groups)], rows)


def _value(value: Any) -> str:
    return "none" if value is None else str(value).replace("'", "")


def environments(runs: Sequence[Run]) -> Table:
    """Machines and versions; runs that share them share a column."""
    found: dict[str, tuple[Mapping[str, str], list[str]]] = {}
    for run in runs:
        e = run.environment
        if not e:
            continue
        packages = e.get("packages", {})
        facts = {
            "devices": ", ".join(map(str, e.get("devices", []))),
            "CPU cores": str(e.get("cores", "")),
            "system": str(e.get("platform", "")),
            "python": str(e.get("python", "")),
            **({"XLA_FLAGS": f"`{e['xla_flags']}`"} if e.get("xla_flags") else {}),
            **({k: str(v) for k, v in packages.items()} if isinstance(packages, dict) else {}),
        }
        found.setdefault(repr(sorted(facts.items())), (facts, []))[1].append(run.name)
    columns = [found[key] for key in sorted(found)]
    names = list(dict.fromkeys(name for facts, _ in columns for name in facts))
    rows: list[list[Cell]] = [["runs", *(", ".join(runs) for _, runs in columns)]]
    if len(columns) == 1:
        rows = []
    rows += [[name, *(facts.get(name, "") for facts, _ in columns)] for name in names]
    return Table(["", *(f"machine {i + 1}" for i in range(len(columns)))], rows, left=9)
