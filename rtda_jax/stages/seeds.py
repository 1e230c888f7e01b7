"""Several seeds of one experiment, each in its own folder, with their mean and spread."""

import pathlib
import statistics
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from rtda_jax.errors import ConfigError
from rtda_jax.run import log
from rtda_jax.run.workdir import write_json

Job = Callable[[ConfigDict, pathlib.Path], dict[str, Any]]


def run(config: ConfigDict, workdir: pathlib.Path, *, count: int, job: Job) -> dict[str, Any]:
    """Runs or resumes seeds 0..count-1 in `workdir/seed<k>` and writes `workdir/summary.json`.

    The compiled programs do not depend on the seed, unless augment.draw is "run". With the
    persistent cache only the first seed compiles.

    Args:
      config: the experiment's configuration.
      workdir: gets one folder a seed.
      count: how many seeds.
      job: runs or evaluates one seed, `experiment.run` or `experiment.reevaluate`.

    Raises:
      ConfigError: count is below 1, or the configuration has a seed of its own.
    """
    if count < 1:
        raise ConfigError(f"--seeds must be 1 or more, got {count}")
    if config.seed:
        raise ConfigError(f"--seeds={count} runs seeds 0 to {count - 1}; config.seed must stay 0")
    results = []
    for seed in range(count):
        chosen = config.copy_and_resolve_references()
        chosen.seed = seed
        log.say(f"\n=== seed {seed}, {seed + 1} of {count} ===")
        results.append(job(chosen.lock(), workdir / f"seed{seed}"))
        summary = summarise(results)
        write_json(workdir / "summary.json", summary)
    log.say(f"\n{config.benchmark.name}, mIoU in %, mean ± sample standard deviation")
    log.say(table(summary))
    log.say(f"\n{workdir / 'summary.json'}")
    return summary


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean, sample standard deviation (None of one seed) and each seed's value of scores.

    Args:
      results: what `experiment.run` returned, for each seed.
    """
    first = results[0]
    stages = {}
    for name, stage in first["stages"].items():
        if "iou" not in stage:
            continue
        runs = [result["stages"][name] for result in results]
        stages[name] = {
            "miou": spread([r["miou"] for r in runs]),
            "pixel_accuracy": spread([r["pixel_accuracy"] for r in runs]),
            "iou": {k: spread([r["iou"][k] for r in runs]) for k in stage["iou"]},
        }
    return {
        "benchmark": first["benchmark"],
        "commits": sorted({str(result["commit"]) for result in results}),
        "seeds": [result["seed"] for result in results],
        "stages": stages,
    }


def spread(values: list[float | None]) -> dict[str, Any]:
    """Returns mean and sample standard deviation of the values that are not None."""
    present = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(present) if present else None,
        "std": statistics.stdev(present) if len(present) > 1 else None,
        "values": values,
    }


def table(summary: dict[str, Any]) -> str:
    """Returns a row for each evaluate stage: mIoU as mean, spread and each seed; pixel accuracy."""
    rows = [("stage", "mIoU", "each seed", "pixel accuracy")]
    for name, stage in summary["stages"].items():
        each = " ".join(percent(value) for value in stage["miou"]["values"])
        rows.append((name, with_spread(stage["miou"]), each, with_spread(stage["pixel_accuracy"])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def percent(value: float | None) -> str:
    """Returns a share in per cent with one decimal."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def with_spread(score: dict[str, Any]) -> str:
    """Returns mean ± standard deviation in per cent."""
    deviation = "" if score["std"] is None else f" ± {percent(score['std'])}"
    return percent(score["mean"]) + deviation
