"""An evaluate stage of an experiment: scores, protocol and a picture grid."""

import pathlib
import time
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rtda_jax import evaluate, fda
from rtda_jax.data import eval_stream, load
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.run import log, parallel
from rtda_jax.run.log import Progress
from rtda_jax.run.signals import watchdog
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages import trained, validation
from rtda_jax.stages.plan import Plan, parse
from rtda_jax.tools import pictures


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluate the stage's networks; what results.json says of it."""
    stage = plan[name]
    path = workdir / name / "result.json"
    if path.exists():
        log.say(f"[{name}] finished, skipped")
        return read_json(path)
    log.say(f"[{name}] {' + '.join(stage.models)} on {stage.benchmark.name}")
    models = [trained.load(plan, m, workdir) for m in stage.models]
    head, wanted = class_set(stage.benchmark.classes), class_set(stage.benchmark.eval_classes)
    dataset = load(stage.benchmark.eval, data_dir=stage.data_dir, classes=head.name)
    process_index, process_count = parallel.process()
    if process_count > len(dataset):
        raise ConfigError(f"stage {name}: {len(dataset)} images are too few for {process_count}")
    share = len(range(process_index, len(dataset), process_count))
    begin, rows = time.perf_counter(), []
    shown = set(np.linspace(0, share - 1, stage.eval.pictures).astype(int).tolist())

    def watch(index: int, example: dict, prediction: np.ndarray) -> None:
        if index in shown:
            rows.append((index, example, prediction))
        moved()
        progress.add(1)

    progress = Progress("  images", share)
    observe = validation.observer(stage.eval.validators)
    with watchdog(stage.stall_seconds) as moved:
        confusion = evaluate.evaluate(
            models,
            eval_stream(
                dataset,
                size=tuple(stage.benchmark.eval_size),
                process_index=process_index,
                process_count=process_count,
            ),
            num_classes=len(head),
            mode=stage.eval.mode,
            window=tuple(stage.eval.window),
            stride=tuple(stage.eval.stride),
            scales=tuple(stage.eval.scales),
            mirror=stage.eval.mirror,
            align=stage.eval.align,
            watch=watch,
            observe=observe,
        )
        progress.end()
        confusion = parallel.sum_counts(confusion)
        if observe is not None:
            observe.gather()
        validated = validation.report(stage, models, observe, moved=moved)
    record = {
        **evaluate.report(confusion, names=wanted.names, rows=head.rows(wanted)),
        "images": len(dataset),
        "protocol": protocol(stage),
        "step": plan[parse(stage.models[0])[0]].steps,
        "models": list(stage.models),
        "confusion": confusion.tolist(),
        "validators": validated,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if not parallel.is_main():
        return record
    betas = [plan[parse(m)[0]].fda_beta for m in stage.models]
    betas = [beta for beta in betas if beta is not None]
    sheet = examples(stage, rows, beta=betas[-1] if betas else None)
    pictures.save(sheet, workdir / name / "predictions.png")
    log.say(f"  mIoU {100 * record['miou']:.1f}   {workdir / name / 'predictions.png'}")
    write_json(path, record)
    return record


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
        "align": config.eval.align,
        "resolution": "labels' own",
        "split": dict(config.benchmark.eval),
        "classes": config.benchmark.eval_classes,
        "head_classes": config.benchmark.classes,
        "checkpoint": "final step",
    }


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
            styled = fda.transfer(*pair, beta=beta, window=config.fda_window)
            row.append(pictures.as_bytes(np.asarray(styled[0])))
        row += [example["image"], pictures.colourise(prediction, colours)]
        row.append(pictures.colourise(example["label"], colours))
        cells.append(row)
    titles = ["source", "target", "prediction", "truth"]
    if beta is not None:
        titles.insert(1, f"source as target (FDA {beta:g})")
    return pictures.grid(cells, titles=titles, names=head.names, colours=colours)
