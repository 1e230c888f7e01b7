"""An evaluate stage: scores, the protocol under which they were measured, and a picture grid."""

import contextlib
import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rtda_jax import evaluate, fda
from rtda_jax.data import Dataset, load
from rtda_jax.data.labels import IGNORE, class_set
from rtda_jax.data.spec import is_labelled
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import ConfigError, DataError, one_of, require
from rtda_jax.evaluate import Model, Protocol
from rtda_jax.run import log, parallel
from rtda_jax.run.log import Progress
from rtda_jax.run.options import Fields, only, read
from rtda_jax.run.signals import watchdog
from rtda_jax.run.workdir import find_result, other_results, save_result
from rtda_jax.stages import validation
from rtda_jax.stages.plan import Plan, Stage, load_network, network_of, parse, seals
from rtda_jax.tools import drawing

Row = tuple[dict[str, Any], np.ndarray]  # an example and its prediction, for the pictures


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """The fields of the section `eval` beside the protocol.

    Attributes:
      pictures: rows of the picture grid.
      validators: the scores without target labels to compute, see `validation`.
      validator_images: how many images source_miou and masked_agreement read; 0 means all.
    """

    pictures: int = 4
    validators: tuple[str, ...] = (
        "source_miou",
        "entropy",
        "information_maximisation",
        "nuclear_norm",
        "masked_agreement",
    )
    validator_images: int = 100

    def __post_init__(self) -> None:
        for name in ("pictures", "validator_images"):
            value = getattr(self, name)
            require(value >= 0, f"eval.{name} must be at least 0, got {value}")
        validation.check(self.validators)


def check(plan: Plan, stage: Stage) -> None:
    """Refuses a protocol that cannot be run.

    Raises:
      ConfigError: names the field, and a network that lacks the output or needs larger images.
    """
    protocol = read(Protocol, stage.config.eval, "eval")
    read(EvalOptions, stage.config.eval, "eval")
    field, size = "benchmark.eval_size", tuple(stage.config.benchmark.eval_size)
    if protocol.mode == "slide" and protocol.window is not None:
        field, size = "eval.window", protocol.window
    for reference in stage.models:
        network = network_of(plan, reference)
        outputs = network.heads().intersection(evaluate.OUTPUTS)
        one_of(protocol.output, outputs, f"eval.output of {reference}:")
        network.check_size(size, field=field)


def bound(fields: Fields) -> Fields:
    """Returns nothing: an evaluation records its protocol in its result."""
    return only(fields, ())


def padding_warning(protocol: Protocol, size: tuple[int, int]) -> str:
    """Returns a warning if "slide" reads images of a size in larger windows at every scale."""
    if protocol.mode != "slide" or protocol.window is None:
        return ""
    largest = tuple(int(side * max(protocol.scales)) for side in size)
    if all(w <= side for w, side in zip(protocol.window, largest, strict=True)):
        return ""
    return (
        f"  warning: eval.window {protocol.window} is larger than an image of benchmark.eval_size "
        f"at the largest of eval.scales, {largest}: the rest of each window is black; give a "
        "smaller eval.window and eval.stride"
    )


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates the stage's networks, unless that is done, and returns the entry of results.json.

    It is done again if the networks, the user's own images or labels, or the validators that are
    asked for have changed. Results under other protocols or of fewer steps are kept as `others` of
    the entry.
    """
    identity = identify(plan, name)
    record = find_result(workdir / name, identity)
    parallel.barrier(f"result of {name}")  # before the main process may move it
    complete = record is not None and "seconds" in record  # `measure` adds it after the validators
    if record is None or not complete:
        return measure(plan, name, workdir)
    changed = _changed(plan, name, workdir, record) if parallel.is_main() else ""
    if parallel.any_process(bool(changed), now=True):
        log.say(f"[{name}] again: {changed} have changed")
        return measure(plan, name, workdir)
    log.say(f"[{name}] finished, skipped")
    if not parallel.is_main():
        return record
    save_result(workdir / name, record, identity)
    return with_others(workdir / name, record, identity)


def _changed(plan: Plan, name: str, workdir: pathlib.Path, record: dict[str, Any]) -> str:
    """Returns what has changed since a record: networks, the user's own files, validators, or "".

    Scores stand if the files are gone, and where older records do not say what they are of.
    """
    weights, config = seals(plan, plan[name].models, workdir), plan[name].config
    earlier = record.get("weights", {})
    if any(earlier.get(of, digest) != digest for of, digest in weights.items()):
        return "its networks"
    spec = config.benchmark.eval
    users_own = spec.name == "folders" or spec.get("list") or spec.get("quarantine")
    if users_own and "files" in record:
        with contextlib.suppress(DataError):
            dataset = scored_set(config)
            if _files(dataset) != record["files"]:
                return "sizes or dates of its images or labels"
            if record.get("meaning", meaning := _meaning(dataset)) != meaning:
                return "the classes of its label ids"
    if record.get("asked", asked := _asked(config)) != asked:
        return "eval.validators or eval.validator_images"
    return ""


def scored_set(config: ConfigDict) -> Dataset:
    """Returns the set of images that an evaluate stage scores."""
    spec, classes = config.benchmark.eval, class_set(config.benchmark.classes).name
    return load(spec, data_dir=config.data_dir, classes=classes, role="eval")


def _files(dataset: Dataset) -> str:
    return dataset.reader.fingerprint(labels=True)[:16]


def _meaning(dataset: Dataset) -> str:
    """Returns a digest of how label files become classes, which a `labels.json` may change."""
    if dataset.labelling is None:
        return ""
    labelling = dataset.labelling
    table = dataset.classes.lut(labelling).tolist()
    described = (table, labelling.encoding, labelling.colours, sorted(labelling.numbers.items()))
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def _asked(config: ConfigDict) -> list[str]:
    """Returns the validators that an evaluation is asked for, and on how many images."""
    return [*config.eval.validators, str(config.eval.validator_images)]


def measure(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates the stage's networks, even if done before; returns the entry of results.json."""
    stage, config, identity = plan[name], plan[name].config, identify(plan, name)
    weights = seals(plan, stage.models, workdir)
    log.say(f"[{name}] {' + '.join(stage.models)} on {config.benchmark.name}")
    models = [load_network(plan, reference, workdir) for reference in stage.models]
    head = class_set(config.benchmark.classes)
    reported = class_set(config.benchmark.eval_classes)
    dataset = scored_set(config)
    _, processes = parallel.process()
    if processes > len(dataset):
        raise ConfigError(f"stage {name}: {len(dataset)} images are too few for {processes}")
    begin = time.perf_counter()
    observer = validation.make_observer(config.eval.validators)
    protocol = read(Protocol, config.eval, "eval")
    if warning := padding_warning(protocol, tuple(config.benchmark.eval_size)):
        log.say(warning)
    with watchdog(config.stall_seconds) as heartbeat:
        confusion, rows = predict_all(
            config, models, dataset, protocol=protocol, observer=observer, heartbeat=heartbeat
        )
        scores = evaluate.report(
            confusion, names=reported.names, rows=head.rows(reported), absent=protocol.absent
        )
        facts = {
            "images": len(dataset),
            "files": _files(dataset),
            "meaning": _meaning(dataset),
            "asked": _asked(config),
            "weights": weights,
        }
        record = scores | facts | identity | {"confusion": confusion.tolist()}
        if parallel.is_main():  # before anything else can fail
            save_result(workdir / name, record, identity)
        record["validators"] = validate(config, models, observer, protocol, heartbeat)
        record["seconds"] = round(time.perf_counter() - begin, 1)
    if not parallel.is_main():
        return record
    save_result(workdir / name, record, identity)
    log.say(f"  {_headline(record, dataset)}   {workdir / name}")
    if dataset.labelling is not None and not record["pixels"]:
        log.say(
            f"  warning: no pixel of the {len(dataset)} label images has a reported class, so that "
            "there is no score; benchmark.eval.labelling says what their ids mean"
        )
    counted = confusion.sum(axis=1)[list(head.rows(reported))]
    absent = [name for name, pixels in zip(reported.names, counted, strict=True) if not pixels]
    if record["pixels"] and absent:
        log.say(f"  no label has {', '.join(absent)}; benchmark.eval_classes can leave them out")
    betas = [plan[parse(reference)[0]].config.fda_beta for reference in stage.models]
    betas = [beta for beta in betas if beta is not None]
    save_pictures(config, rows, workdir / name, beta=betas[-1] if betas else None)
    return with_others(workdir / name, record, identity)


def _headline(record: dict[str, Any], dataset: Dataset) -> str:
    """Returns the mIoU in words, or without labels the scores that need none."""
    if dataset.labelling is not None:
        return f"mIoU {evaluate.percent(record['miou'])}"
    scores = [f"{k} {v:.3f}" for k, v in record["validators"].items() if isinstance(v, float)]
    return f"no labels, and therefore only scores without labels: {', '.join(scores) or 'none'}"


def predict_all(
    config: ConfigDict,
    models: Sequence[Model],
    dataset: Dataset,
    *,
    protocol: Protocol,
    observer: validation.Observer | None,
    heartbeat: Callable[[], object],
) -> tuple[np.ndarray, list[Row]]:
    """Predicts all images, of which each process takes a share.

    Args:
      config: the configuration of an evaluate stage.
      models: the networks to fuse.
      dataset: the images and their labels, if there are any.
      protocol: how the images are read.
      observer: gathers what the validators need from the softmax of all images.
      heartbeat: called after every image.

    Returns:
      the confusion matrix int64 [K,K] of all processes, and the rows of this process's pictures.
    """
    process_index, process_count = parallel.process()
    share = len(range(process_index, len(dataset), process_count))
    shown = set(np.linspace(0, share - 1, config.eval.pictures).astype(int).tolist())
    progress = Progress("  images", share)
    rows: list[Row] = []

    def take(index: int, example: dict[str, Any], prediction: np.ndarray) -> None:
        if index in shown:
            rows.append((example, prediction))
        heartbeat()
        progress.add(1)

    stream = eval_stream(
        dataset,
        size=tuple(config.benchmark.eval_size),
        resize=config.benchmark.resize,
        threads=config.threads,
        process_index=process_index,
        process_count=process_count,
    )
    confusion = evaluate.evaluate(
        models,
        stream,
        num_classes=len(dataset.classes),
        protocol=protocol,
        on_prediction=take,
        on_softmax=observer,
    )
    progress.end()
    confusion = parallel.sum_counts(confusion)
    if observer is not None:
        observer.gather()
    return confusion, rows


def validate(
    config: ConfigDict,
    models: Sequence[Model],
    observer: validation.Observer | None,
    protocol: Protocol,
    heartbeat: Callable[[], object],
) -> dict[str, Any]:
    """Returns the scores of the validators; warns and returns none if data are missing."""
    try:
        return validation.report(config, models, observer, protocol=protocol, heartbeat=heartbeat)
    except DataError as error:
        log.say(f"  warning: no validators: {error}")
        return {}


def save_pictures(
    config: ConfigDict, rows: list[Row], folder: pathlib.Path, *, beta: float | None
) -> None:
    """Writes `predictions.png`; prints a warning and writes none if the source is missing."""
    path, sheet = folder / "predictions.png", None
    try:
        if rows:
            sheet = picture_grid(config, rows, beta=beta)
    except DataError as error:
        log.say(f"  warning: no pictures: {error}")
    if sheet is None:
        path.unlink(missing_ok=True)  # it would show another evaluation
    else:
        drawing.save(sheet, path)


def identify(plan: Plan, name: str) -> dict[str, Any]:
    """Returns what determines the scores of a stage: protocol, networks and their steps."""
    stage = plan[name]
    return {
        "protocol": protocol_record(stage, read(Protocol, stage.config.eval, "eval")),
        "step": plan[parse(stage.models[0])[0]].config.steps,
        "models": list(stage.models),
    }


def with_others(
    folder: pathlib.Path, record: dict[str, Any], identity: dict[str, Any]
) -> dict[str, Any]:
    """Returns a record with the scores that the stage measured under other identities, if any."""
    scores = ("miou", "pixel_accuracy", *identity)
    others = [{k: row.get(k) for k in scores} for row in other_results(folder, identity)]
    return {**record, "others": others} if others else record


def protocol_record(stage: Stage, protocol: Protocol) -> dict[str, Any]:
    """Returns everything that determines the scores of an evaluation besides the weights."""
    benchmark = stage.config.benchmark
    slides = protocol.mode == "slide"
    fields = {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(protocol).items()
    }
    window = {k: fields[k] for k in ("window", "stride", "scales", "mirror")} if slides else {}
    averaged = f"mean {protocol.fusion}" if len(stage.models) > 1 or slides else "logits"
    # Older records lack these fields and were measured with their defaults. The defaults are left
    # out here as well, so that the protocols are equal.
    defaults = Protocol()
    added = {k: fields[k] for k in ("output", "absent") if fields[k] != getattr(defaults, k)}
    if benchmark.resize != "bilinear":
        added["resize"] = benchmark.resize
    return {
        "mode": protocol.mode,
        **window,
        "input_size": list(benchmark.eval_size),
        "upsampled": averaged,
        **added,
        "align": protocol.align,
        "resolution": "labels' own" if is_labelled(benchmark.eval) else "input's",
        "split": dict(benchmark.eval),
        # A user's classes by their whole definition, because the file may change or move.
        "classes": class_set(benchmark.eval_classes).name,
        "head_classes": class_set(benchmark.classes).name,
        "checkpoint": "final step",
    }


def picture_grid(config: ConfigDict, rows: list[Row], *, beta: float | None) -> Image.Image:
    """Returns the picture grid: source, stylised source, target, prediction, and any truth."""
    head = class_set(config.benchmark.classes)
    colours = np.asarray(head.colours, np.uint8)
    source = load(
        config.benchmark.source, data_dir=config.data_dir, classes=config.benchmark.classes
    )
    cells = []
    stream = eval_stream(
        source,
        size=tuple(config.benchmark.eval_size),
        resize=config.benchmark.resize,
        threads=config.threads,
    )
    for (example, prediction), played in zip(rows, stream, strict=False):
        row = [played["image"]]
        if beta is not None:
            pair = [x[None].astype(np.float32) for x in (played["image"], example["image"])]
            styled = fda.transfer(*pair, beta=beta, window=config.fda_window)
            row.append(drawing.as_bytes(np.asarray(styled[0])))
        row += [example["image"], drawing.colourise(prediction, colours)]
        if "label" in example:
            row.append(drawing.colourise(example["label"], colours))
        cells.append(row)
    titles = ["source", "target", "prediction"] + ["truth"] * ("label" in rows[0][0])
    if beta is not None:
        titles.insert(1, f"source as target (FDA {beta:g})")
    truth = [example.get("label", prediction) for example, prediction in rows]
    ignored = any((label == IGNORE).any() for label in truth)
    return drawing.grid(cells, titles=titles, names=head.names, colours=colours, ignored=ignored)
