"""An experiment: its ordered stages for one seed, and several seeds with their mean and spread.

Each stage has a folder, and a finished stage is skipped.
"""

import contextlib
import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rtda_jax import evaluate
from rtda_jax.data import batches
from rtda_jax.data.labels import class_set, with_definitions
from rtda_jax.data.sampling import glance
from rtda_jax.errors import ConfigError, DataError, require
from rtda_jax.evaluate import percent
from rtda_jax.run import binding, checkpoint, log, parallel
from rtda_jax.run.options import plain, read
from rtda_jax.run.signals import stop_at_once
from rtda_jax.run.workdir import RESULT, read_json, read_results, write_json
from rtda_jax.stages import KINDS, pseudo_label
from rtda_jax.stages import evaluate as evaluate_stage
from rtda_jax.stages import train as train_stage
from rtda_jax.stages.plan import Kind, Plan, make_plan, naming, parse
from rtda_jax.tools import environment, hub
from rtda_jax.train import LoopOptions

Job = Callable[[ConfigDict, pathlib.Path], dict[str, Any]]


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs every stage that is not finished and gathers what they measured in `results.json`.

    Raises:
      ConfigError: a stage cannot be run, or the workdir belongs to another configuration or
        another process.
    """
    workdir = pathlib.Path(workdir)
    hub.check_unpublished(workdir)
    with stop_at_once("stopped before the first stage; the same command begins again"):
        plan = checked_plan(config)
        train_stage.check_batches(plan, workdir)
        train_stage.check_weights(plan, workdir)
        look_for_data(plan, workdir)
        check_same_data(plan, workdir)
    with _locked(workdir, config):
        return _run(config, plan, workdir, KINDS)


def reevaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates a trained workdir again, without training.

    A result under the same protocol is replaced once the new one is complete; others are kept. What
    was changed for this evaluation stays in its result: later jobs read the images as before.

    Raises:
      ConfigError: the workdir is not trained to its end, or it belongs to another configuration
        or another process; the earlier results are unchanged.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds no run; train it first (the job run)")
    hub.check_unpublished(workdir)
    plan = checked_plan(config)
    _check_trained(plan, workdir, config)
    check_same_data(plan, workdir)
    with _locked(workdir, config, bind=binding.check_bound):
        parallel.barrier("checked")
        again = dataclasses.replace(KINDS["evaluate"], run=evaluate_stage.measure)
        return _run(config, plan, workdir, {**KINDS, "evaluate": again})


def _check_trained(plan: Plan, workdir: pathlib.Path, config: ConfigDict) -> None:
    """Refuses a workdir that is not trained to its end, before it is bound to a configuration."""
    binding.check_bound(workdir, recorded(config), KINDS)  # says more of another configuration
    for name, stage in plan.items():
        done = workdir / name / "done.json"
        if stage.kind == "evaluate":
            continue
        if (
            not done.exists()
            or read_json(done).get("step", stage.config.steps) < stage.config.steps
        ):
            raise ConfigError(f"{workdir / name} is not trained to its end; the job run goes on")
        if checkpoint.is_damaged(workdir / name / "checkpoints"):
            raise ConfigError(
                f"{workdir / name} lost its last checkpoint; the job run trains it again"
            )


@contextlib.contextmanager
def _locked(
    workdir: pathlib.Path, config: ConfigDict, *, bind: Callable[..., list[str]] = binding.claim
) -> Iterator[None]:
    """Locks a workdir with `binding.hold` and prints what changes in it.

    Raises:
      ConfigError: `binding.hold` refuses.
    """
    with binding.hold(workdir, recorded(config), KINDS, bind=bind) as notes:
        for note in notes:
            log.say(note)
        yield


def checked_plan(config: ConfigDict) -> Plan:
    """Returns the plan of an experiment, after checking every stage before anything runs.

    Raises:
      ConfigError: names the stage.
    """
    plan = make_plan(config, KINDS)
    for name, stage in plan.items():
        with naming(name):  # otherwise its errors would appear in the middle of a run
            read(LoopOptions, stage.config, "")
    pseudo_label.check_scored(plan)
    check_images(plan)
    return plan


def check_images(plan: Plan) -> None:
    """Refuses missing images and classes for the evaluation before training instead of after it.

    Raises:
      ConfigError: names the stage, the field, and how to train without an evaluation.
      DataError: names the classes to report that the network does not have.
    """
    trained = _trained(plan)
    for name, stage in plan.items():
        scored = stage.config.benchmark.eval
        if stage.kind == "evaluate":
            head = class_set(stage.config.benchmark.classes)
            head.rows(class_set(stage.config.benchmark.eval_classes))
        if stage.kind == "evaluate" and scored.name == "folders":
            require(
                scored.images,
                f"stage {name}: no images to evaluate on; give --config.benchmark.eval.images, "
                "which may be those of benchmark.target, and --config.benchmark.eval.labels if "
                f'there are labels, or train without an evaluation: "--config.stages={trained}"',
            )


def look_for_data(plan: Plan, workdir: pathlib.Path) -> None:
    """Looks for the images and labels of all unfinished stages, before the first of them runs.

    Warns if the labels of an evaluation seem to mean something other than the configuration says.

    Raises:
      DataError: names the stage and what is missing; if it is an evaluation, also how to train
        without one.
    """
    doubts: dict[str, None] = {}  # each once: stages often score the same images
    for name, stage in plan.items():
        if stage.kind == "evaluate" and not (workdir / name / RESULT).exists():
            try:
                doubts |= dict.fromkeys(glance(evaluate_stage.scored_set(stage.config)))
            except DataError as error:
                raise DataError(
                    f"stage {name}: {error}; to train without an evaluation: "
                    f'"--config.stages={_trained(plan)}"'
                ) from error
        elif stage.kind != "evaluate" and not (workdir / name / "done.json").exists():
            with naming(name):
                batches.look_for(stage.config, KINDS[stage.kind].reads(stage))
    for doubt in doubts:
        log.say(f"warning: labels of benchmark.eval: {doubt}")


def check_same_data(plan: Plan, workdir: pathlib.Path) -> None:
    """Refuses other images than those with which a stage began, before the workdir records them.

    Raises:
      ConfigError: names the folder of the stage and the set.
    """
    for name, stage in plan.items():
        if binding.begun(workdir / name):
            for role in KINDS[stage.kind].reads(stage):
                batches.check_same(stage.config, role, workdir / name)


def _trained(plan: Plan) -> tuple[str, ...]:
    """Returns the stages that need no evaluation, for `stages`."""
    return tuple(name for name, stage in plan.items() if stage.kind != "evaluate")


def _run(
    config: ConfigDict, plan: Plan, workdir: pathlib.Path, kinds: Mapping[str, Kind]
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "config": read_json(workdir / "config.json"),
        "benchmark": config.benchmark.name,
        "seed": config.seed,
        "commit": environment.commit(),
        "environment": environment.describe(),
        "command": first_command(workdir),
        "stages": {},
    }
    earlier = read_results(workdir).get("stages", {})
    # Their folders were removed, and older records do not say of which weights the scores are.
    anew = {name for name in plan if not binding.begun(workdir / name)}
    for name, stage in plan.items():
        parallel.barrier(f"stage {name}")
        run_stage = kinds[stage.kind].run
        if stage.kind == "evaluate" and anew & {parse(model)[0] for model in stage.models}:
            run_stage = evaluate_stage.measure
        sentence = f"stopped in stage {name}; the same command continues from what is finished"
        with stop_at_once(sentence):
            results["stages"][name] = run_stage(plan, name, workdir)
        # The result of an earlier command stays until the new one is complete.
        stages = {**{k: earlier[k] for k in plan if k in earlier}, **results["stages"]}
        write_json(workdir / "results.json", results | {"stages": stages})
    scored = {k: r for k, r in results["stages"].items() if r.get("miou") is not None}
    if scored:
        log.say(f"\n{config.benchmark.name}, seed {config.seed}, final step of each model")
        log.say(evaluate.table(scored))
    log.say(f"\n{workdir / 'results.json'}")
    return results


def recorded(config: ConfigDict) -> dict[str, Any]:
    """Returns what a run records of a configuration: plain values that need no file of classes."""
    return with_definitions(plain(config))


def first_command(workdir: pathlib.Path) -> str:
    """Returns the command line that began this workdir; a later one does not replace it."""
    return read_results(workdir).get("command") or environment.command()


def each_seed(config: ConfigDict, workdir: pathlib.Path, *, count: int | None, job: Job) -> None:
    """Runs a job in a workdir, or in the folder of each seed if the number of seeds is given.

    Raises:
      ConfigError: the workdir holds the runs of several seeds, and their count is not given.
    """
    if count is not None:
        run_seeds(config, workdir, count=count, job=job)
        return
    seeds = sorted(path.parent for path in workdir.glob("seed*/config.json"))
    if seeds and not (workdir / "config.json").exists():
        raise ConfigError(
            f"{workdir} holds the runs of {len(seeds)} seeds: add --seeds={len(seeds)}, or name "
            f"one of them, --workdir={seeds[0]}"
        )
    job(config, workdir)


def run_seeds(
    config: ConfigDict, workdir: str | pathlib.Path, *, count: int, job: Job
) -> dict[str, Any]:
    """Runs or resumes seeds 0..count-1 in `workdir/seed<k>` and writes `workdir/summary.json`.

    An earlier summary stays until the new one has as many of the seeds.

    The compiled programs do not depend on the seed unless augment.draw is "run", so that only the
    first seed compiles and the others read the persistent cache.

    Args:
      config: the experiment's configuration.
      workdir: gets one folder per seed.
      count: how many seeds.
      job: runs or evaluates one seed, `run` or `reevaluate`.

    Raises:
      ConfigError: count is below 1, or the configuration has a seed of its own.
    """
    workdir = pathlib.Path(workdir)
    if count < 1:
        raise ConfigError(f"--seeds must be 1 or more, got {count}")
    if config.seed:
        raise ConfigError(f"--seeds={count} runs seeds 0 to {count - 1}; config.seed must stay 0")
    path, results, least = workdir / "summary.json", [], _least(workdir, count)
    for seed in range(count):
        chosen = config.copy_and_resolve_references()
        chosen.seed = seed
        log.say(f"\n=== seed {seed}, {seed + 1} of {count} ===")
        results.append(job(chosen.lock(), workdir / f"seed{seed}"))
        summary = summarise(results)
        if len(results) >= least:
            write_json(path, summary)
    if summary["stages"]:
        log.say(f"\n{config.benchmark.name}, mIoU in %, mean ± sample standard deviation")
        log.say(summary_table(summary))
    log.say(f"\n{path}")
    return summary


def _least(workdir: pathlib.Path, count: int) -> int:
    """Returns how many seeds a summary must have to replace that of an earlier command."""
    earlier = None
    with contextlib.suppress(FileNotFoundError, ConfigError):  # a damaged one is replaced at once
        earlier = read_json(workdir / "summary.json").get("seeds")
    if not isinstance(earlier, list):
        return 0
    # A seed without results begins anew: nothing of it is worth keeping.
    there = [k for k in range(count) if (workdir / f"seed{k}" / "results.json").exists()]
    return sum(seed in earlier for seed in there)


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean, sample standard deviation (None for one seed) and values of every score.

    Args:
      results: what `run` returned, for each seed.
    """
    first = results[0]
    stages = {}
    for name, stage in first["stages"].items():
        runs = [result["stages"][name] for result in results]
        if all(run.get("miou") is None for run in runs):  # no evaluation, or one without labels
            continue
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


def summary_table(summary: dict[str, Any]) -> str:
    """Returns a row for each evaluate stage: mIoU as mean, spread and each seed; pixel accuracy."""
    rows = [("stage", "mIoU", "each seed", "pixel accuracy")]
    for name, stage in summary["stages"].items():
        each = " ".join(percent(value) for value in stage["miou"]["values"])
        rows.append((name, with_spread(stage["miou"]), each, with_spread(stage["pixel_accuracy"])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def with_spread(score: dict[str, Any]) -> str:
    """Returns mean ± standard deviation in per cent."""
    deviation = "" if score["std"] is None else f" ± {percent(score['std'])}"
    return percent(score["mean"]) + deviation
