"""The ordered stages of an experiment: each has a folder, and a finished stage is skipped."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rtda_jax import evaluate
from rtda_jax.adapt.options import read
from rtda_jax.data.batches import StreamOptions
from rtda_jax.errors import ConfigError
from rtda_jax.run import binding, checkpoint, log, parallel
from rtda_jax.run.signals import stop_at_once
from rtda_jax.run.workdir import plain, read_json, write_json
from rtda_jax.stages import KINDS, pseudo_label
from rtda_jax.stages import evaluate as evaluate_stage
from rtda_jax.stages.plan import Kind, Plan, make_plan
from rtda_jax.tools import environment
from rtda_jax.train import LoopOptions


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Runs every stage that is not finished and gathers what they measured in `results.json`.

    Raises:
      ConfigError: a stage cannot be run, or the workdir belongs to another configuration or
        another process.
    """
    plan = checked_plan(config)
    with binding.hold(workdir, plain(config)) as notes:
        for note in notes:
            log.say(note)
        return _run(config, plan, workdir, KINDS)


def reevaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates a trained workdir again, without training.

    A result by the same protocol is replaced when the new one is there; others stay beside it.

    Raises:
      ConfigError: the workdir is not trained to its end, or it belongs to another configuration
        or another process; the earlier results are as they were.
    """
    if not (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds no run; train it first (--job=run)")
    plan = checked_plan(config)
    with binding.hold(workdir, plain(config)) as notes:
        for note in notes:
            log.say(note)
        for name, stage in plan.items():
            finished = (workdir / name / "done.json").exists()
            if stage.kind != "evaluate" and not finished:
                raise ConfigError(f"{workdir / name} is not trained to its end; run --job=run")
            if checkpoint.is_damaged(workdir / name / "checkpoints"):
                raise ConfigError(f"{workdir / name} lost its last checkpoint; run --job=run")
        parallel.barrier("checked")
        again = dataclasses.replace(KINDS["evaluate"], run=evaluate_stage.measure)
        return _run(config, plan, workdir, {**KINDS, "evaluate": again})


def checked_plan(config: ConfigDict) -> Plan:
    """Returns the plan of an experiment; what cannot be done is refused before anything runs.

    Raises:
      ConfigError: names the stage.
    """
    plan = make_plan(config, KINDS)
    for name, stage in plan.items():
        try:
            read(LoopOptions, stage.config, "")
            read(StreamOptions, stage.config, "")
        except ConfigError as error:
            raise ConfigError(f"stage {name}: {error}") from None
    if parallel.process()[1] > 1:
        shared = [name for name, kind in KINDS.items() if kind.several_processes]
        for name, stage in plan.items():
            if stage.kind not in shared:
                raise ConfigError(
                    f"stage {name}: kind {stage.kind!r} runs in one process only; several "
                    f"processes can share: {', '.join(shared)}"
                )
    pseudo_label.check_scored(plan)
    return plan


def _run(
    config: ConfigDict, plan: Plan, workdir: pathlib.Path, kinds: Mapping[str, Kind]
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "config": plain(config),
        "benchmark": config.benchmark.name,
        "seed": config.seed,
        "commit": environment.commit(),
        "environment": environment.describe(),
        "command": first_command(workdir),
        "stages": {},
    }
    for name, stage in plan.items():
        parallel.barrier(f"stage {name}")
        sentence = f"stopped in stage {name}; the same command goes on from what is finished"
        with stop_at_once(sentence):
            results["stages"][name] = kinds[stage.kind].run(plan, name, workdir)
        write_json(workdir / "results.json", results)
    tables = {name: record for name, record in results["stages"].items() if "iou" in record}
    if tables:
        log.say(f"\n{config.benchmark.name}, seed {config.seed}, final step of each model")
        log.say(evaluate.table(tables))
    log.say(f"\n{workdir / 'results.json'}")
    return results


def first_command(workdir: pathlib.Path) -> str:
    """Returns the command line that began this workdir; a later one does not replace it."""
    path = workdir / "results.json"
    earlier = read_json(path).get("command") if path.exists() else None
    return earlier or environment.command()
