"""The ordered stages of an experiment: each has a folder, a finished one is skipped."""

import contextlib
import fcntl
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rtda_jax import (
    build,
    checkpoint,
    environment,
    evaluate,
    fda,
    integrity,
    parallel,
    pictures,
    records,
    validation,
)
from rtda_jax.data import eval_stream, load
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.progress import Progress
from rtda_jax.terms import formula
from rtda_jax.train import train

# Fields that change how a run is watched, not what it computes as long as all goes well.
FREE = (
    "data_dir",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_keep",
    "loggers",
    "on_not_finite",
    "stall_seconds",
    "threads",
)


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Run every stage that is not finished; gather what they measured in `results.json`.

    Raises:
      ConfigError: the workdir belongs to another configuration or another process.
    """
    plan = stages(config)
    with lock(workdir):
        checkpoint.claim(workdir, plain(config), free=FREE)
        results = {
            "config": plain(config),
            "benchmark": config.benchmark.name,
            "seed": config.seed,
            "commit": environment.commit(),
            "environment": environment.describe(),
            "command": command(workdir),
            "stages": {},
        }
        for name, stage_config in plan.items():
            kind = KINDS[stage_config.kind]
            results["stages"][name] = kind(config, stage_config, workdir, name)
            checkpoint.write_json(workdir / "results.json", results)
    tables = {n: r for n, r in results["stages"].items() if "iou" in r}
    if tables:
        records.say(f"\n{config.benchmark.name}, seed {config.seed}, final step of each model")
        records.say(evaluate.table(tables))
    records.say(f"\n{workdir / 'results.json'}")
    return results


def stages(config: ConfigDict) -> dict[str, ConfigDict]:
    """Each stage's own configuration: the experiment's fields with the stage's overrides."""
    plan: dict[str, ConfigDict] = {}
    for name in config.stages:
        if name not in config.stage:
            raise ConfigError(
                f"stages names {name!r}, stage has only: {', '.join(sorted(config.stage))}"
            )
        overrides = config.stage[name].to_dict()
        kind = overrides.pop("kind")
        if kind not in KINDS:
            raise ConfigError(f"stage {name}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
        merged = config.copy_and_resolve_references()
        with merged.unlocked():
            del merged["stages"], merged["stage"]
            merged.kind = kind
            if kind == "evaluate":
                merged.models = tuple(overrides.pop("models"))
                validation.check(merged.eval.validators)
        for model in merged.get("models", ()):
            if model not in plan or plan[model].kind != "train":
                raise ConfigError(f"stage {name}: {model!r} is no earlier train stage")
        try:
            merged.lock().update(overrides)
        except (KeyError, AttributeError, TypeError) as error:
            raise ConfigError(f"stage {name}: {error}") from None
        plan[name] = merged
    return plan


def command(workdir: pathlib.Path) -> str:
    """The command line that began this workdir; a later one does not replace it."""
    path = workdir / "results.json"
    earlier = json.loads(path.read_text()).get("command") if path.exists() else None
    return earlier or environment.command()


def plain(config: ConfigDict) -> dict[str, Any]:
    """A configuration as nested plain values, as JSON gives them back."""
    return json.loads(config.to_json_best_effort())


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Hold a workdir for one process; the system frees it however the process ends."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{workdir} is in use by another process") from None
        yield


def reevaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluate a trained workdir again, without training; replaces the earlier results."""
    if not (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds no run; train it first (--job=run)")
    with lock(workdir):
        for name, stage in stages(config).items():
            if stage.kind == "evaluate":
                (workdir / name / "result.json").unlink(missing_ok=True)
            elif not (workdir / name / "done.json").exists():
                raise ConfigError(f"{workdir / name} is not trained to its end; run --job=run")
    return run(config, workdir)


def _train(config: ConfigDict, stage: ConfigDict, workdir: pathlib.Path, name: str) -> dict:
    folder = workdir / name
    done = folder / "done.json"
    if done.exists() and not integrity.damaged(folder / "checkpoints"):
        records.say(f"[{name}] finished, skipped")
        return json.loads(done.read_text())
    parts = build.build(stage)
    records.say(f"[{name}] objective = {formula(parts.objective)}   inputs {build.inputs(stage)}")
    for sentence in build.describe(parts, stage):
        records.say(f"  {sentence}")
    begin = time.perf_counter()
    state = train(stage, folder)
    record = {
        "step": int(state.step),
        "seconds": round(time.perf_counter() - begin, 1),
        "objective": formula(parts.objective),
        "fda_beta": stage.fda_beta,
    }
    checkpoint.write_json(done, record)
    return record


def _evaluate(config: ConfigDict, stage: ConfigDict, workdir: pathlib.Path, name: str) -> dict:
    path = workdir / name / "result.json"
    if path.exists():
        records.say(f"[{name}] finished, skipped")
        return json.loads(path.read_text())
    records.say(f"[{name}] {' + '.join(stage.models)} on {stage.benchmark.name}")
    plan = stages(config)
    models = [trained(plan[m], workdir / m) for m in stage.models]
    head, wanted = class_set(stage.benchmark.classes), class_set(stage.benchmark.eval_classes)
    dataset = load(stage.benchmark.eval, data_dir=stage.data_dir, classes=head.name)
    begin, rows = time.perf_counter(), []
    shown = set(np.linspace(0, len(dataset) - 1, stage.eval.pictures).astype(int).tolist())

    def watch(index: int, example: dict, prediction: np.ndarray) -> None:
        if index in shown:
            rows.append((index, example, prediction))
        progress.add(1)

    progress = Progress("  images", len(dataset))
    observe = validation.observer(stage.eval.validators)
    confusion = evaluate.evaluate(
        models,
        eval_stream(dataset, size=tuple(stage.benchmark.eval_size)),
        num_classes=len(head),
        mode=stage.eval.mode,
        window=tuple(stage.eval.window),
        stride=tuple(stage.eval.stride),
        scales=tuple(stage.eval.scales),
        mirror=stage.eval.mirror,
        watch=watch,
        observe=observe,
    )
    progress.end()
    record = {
        **evaluate.report(confusion, names=wanted.names, rows=head.rows(wanted)),
        "images": len(dataset),
        "protocol": protocol(stage),
        "step": plan[stage.models[0]].steps,
        "models": list(stage.models),
        "confusion": confusion.tolist(),
        "validators": validation.report(stage, models, observe),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    betas = [plan[m].fda_beta for m in stage.models if plan[m].fda_beta is not None]
    sheet = examples(stage, rows, beta=betas[-1] if betas else None)
    pictures.save(sheet, workdir / name / "predictions.png")
    records.say(f"  mIoU {100 * record['miou']:.1f}   {workdir / name / 'predictions.png'}")
    checkpoint.write_json(path, record)
    return record


KINDS = {"train": _train, "evaluate": _evaluate}


def protocol(config: ConfigDict) -> dict[str, Any]:
    """Everything that decides an evaluation's numbers besides the weights."""
    slides = config.eval.mode == "slide"
    window = {k: config.eval[k] for k in ("window", "stride", "scales", "mirror")} if slides else {}
    several = len(config.models) > 1 or slides
    return {
        "mode": config.eval.mode,
        **window,
        "input_size": list(config.benchmark.eval_size),
        "upsampled": "mean softmax" if several else "logits",
        "align": "corners" if slides else "half_pixel",
        "resolution": "labels' own",
        "split": dict(config.benchmark.eval),
        "classes": config.benchmark.eval_classes,
        "head_classes": config.benchmark.classes,
        "checkpoint": "final step",
    }


def trained(config: ConfigDict, folder: pathlib.Path) -> evaluate.Model:
    """The network a finished train stage left."""
    parts = build.build(config)
    with checkpoint.manager(folder / "checkpoints", keep=config.checkpoint_keep) as held:
        step = held.latest_step()
        if step != config.steps:
            raise ConfigError(f"{folder} stands at step {step} of {config.steps}: train it first")
        fresh = jax.eval_shape(lambda: build.initial_state(parts, config))
        whole = parallel.everywhere(parallel.mesh(jax.devices()[:1]))
        wanted = {"g_params": fresh.g_params, "g_stats": fresh.g_stats}
        state = checkpoint.restore_only(held, checkpoint.abstract(wanted, whole), step=step)
    variables = {"params": state["g_params"], "batch_stats": state["g_stats"]}
    return evaluate.Model(parts.generator, variables, config.normalisation)


def examples(config: ConfigDict, rows: list[tuple], *, beta: float | None):
    """The picture grid: source, stylised source, target, prediction, truth."""
    head = class_set(config.benchmark.classes)
    colours = np.asarray(head.colours, np.uint8)
    source = load(
        config.benchmark.source, data_dir=config.data_dir, classes=config.benchmark.classes
    )
    cells = []
    stream = eval_stream(source, size=tuple(config.benchmark.eval_size))
    for (_, example, prediction), played in zip(rows, stream, strict=False):
        row = [played["image"]]
        if beta is not None:
            pair = [x[None].astype(np.float32) for x in (played["image"], example["image"])]
            row.append(pictures.as_bytes(np.asarray(fda.transfer(*pair, beta=beta)[0])))
        row += [example["image"], pictures.colourise(prediction, colours)]
        row.append(pictures.colourise(example["label"], colours))
        cells.append(row)
    titles = ["source", "target", "prediction", "truth"]
    if beta is not None:
        titles.insert(1, f"source as target (FDA {beta:g})")
    return pictures.grid(cells, titles=titles, names=head.names, colours=colours)
