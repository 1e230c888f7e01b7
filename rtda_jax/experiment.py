"""The ordered stages of an experiment: each has a folder, a finished one is skipped."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from rtda_jax import evaluate
from rtda_jax.adapt import build
from rtda_jax.errors import ConfigError
from rtda_jax.run import checkpoint, log, parallel
from rtda_jax.run.signals import stop_at_once
from rtda_jax.run.workdir import FREE, claim, lock, plain, read_json, write_json
from rtda_jax.stages import evaluate_stage, pseudo_stage, statistics_stage, train_stage
from rtda_jax.stages.plan import Plan, stages
from rtda_jax.tools import environment

RUN = {
    "train": train_stage.run,
    "pseudo_label": pseudo_stage.run,
    "statistics": statistics_stage.run,
    "evaluate": evaluate_stage.run,
}

# The kinds of stages that several processes share.
SEVERAL = ("train", "evaluate")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Run every stage that is not finished; gather what they measured in `results.json`.

    Raises:
      ConfigError: the workdir belongs to another configuration or another process.
    """
    plan = possible(config)
    with lock(workdir):
        claim(workdir, plain(config), free=FREE)
        return _run(config, plan, workdir)


def reevaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluate a trained workdir again, without training; replaces the earlier results.

    Raises:
      ConfigError: the workdir is not trained to its end, belongs to another configuration or
        another process; the earlier results are as they were.
    """
    if not (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds no run; train it first (--job=run)")
    plan = possible(config)
    with lock(workdir):
        claim(workdir, plain(config), free=FREE)
        for name, stage in plan.items():
            trained = (workdir / name / "done.json").exists()
            if stage.kind != "evaluate" and not trained:
                raise ConfigError(f"{workdir / name} is not trained to its end; run --job=run")
            if checkpoint.is_damaged(workdir / name / "checkpoints"):
                raise ConfigError(f"{workdir / name} lost its last checkpoint; run --job=run")
        parallel.barrier("checked")
        for name, stage in plan.items():
            if stage.kind == "evaluate":
                (workdir / name / "result.json").unlink(missing_ok=True)
        return _run(config, plan, workdir)


def possible(config: ConfigDict) -> Plan:
    """The plan of an experiment; what can not be done is refused before anything runs.

    Raises:
      ConfigError: naming the stage.
    """
    plan = stages(config)
    several = parallel.process()[1] > 1
    for name, stage in plan.items():
        if stage.kind == "train":
            build.build(stage)
        if stage.kind == "pseudo_label":
            pseudo_stage.check(plan, name)
        if several and stage.kind not in SEVERAL:
            raise ConfigError(
                f"stage {name}: kind {stage.kind!r} runs in one process only; those that several "
                f"can share: {', '.join(SEVERAL)}"
            )
    return plan


def _run(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> dict[str, Any]:
    results: dict[str, Any] = {
        "config": plain(config),
        "benchmark": config.benchmark.name,
        "seed": config.seed,
        "commit": environment.commit(),
        "environment": environment.describe(),
        "command": command(workdir),
        "stages": {},
    }
    for name, stage in plan.items():
        parallel.barrier(f"stage {name}")
        with stop_at_once(
            f"stopped in stage {name}; the same command goes on from what is finished"
        ):
            results["stages"][name] = RUN[stage.kind](plan, name, workdir)
        write_json(workdir / "results.json", results)
    tables = {n: r for n, r in results["stages"].items() if "iou" in r}
    if tables:
        log.say(f"\n{config.benchmark.name}, seed {config.seed}, final step of each model")
        log.say(evaluate.table(tables))
    log.say(f"\n{workdir / 'results.json'}")
    return results


def command(workdir: pathlib.Path) -> str:
    """The command line that began this workdir; a later one does not replace it."""
    path = workdir / "results.json"
    earlier = read_json(path).get("command") if path.exists() else None
    return earlier or environment.command()
