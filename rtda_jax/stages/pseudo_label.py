"""A pseudo_label stage: finished networks label the training images of the target.

The label files come from a stream of predictions, in bounded memory, and can be resumed after a
kill. Thresholds over the whole set need two passes. The first pass counts confidences in a
histogram, which is saved from time to time so that a killed pass can continue; a checksum detects
damage. The second pass writes the files. It keeps the files that already exist, because each of
them depends only on its image and the thresholds and was written atomically. With n processes, each
one labels every n-th image. What they counted adds up, even if fewer of them continue.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rtda_jax.adapt import pseudo_labels
from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.data import Dataset, load, pictures
from rtda_jax.data.dataset import fingerprint
from rtda_jax.data.labels import class_set
from rtda_jax.data.pictures import png
from rtda_jax.data.pseudo import (
    HISTOGRAM,
    MANIFEST,
    label_path,
    merge_histograms,
    part_of_histogram,
    read_histogram,
)
from rtda_jax.data.spec import is_labelled
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import ConfigError, Interrupted, one_of
from rtda_jax.evaluate import Model, folded, outputs_of
from rtda_jax.ops.resize import upsample
from rtda_jax.run import log, parallel
from rtda_jax.run.binding import bind_data
from rtda_jax.run.files import read_bytes, write_bytes, write_npz
from rtda_jax.run.log import Progress
from rtda_jax.run.options import Fields, only, read
from rtda_jax.run.signals import compiling_first, shutdown_event, watchdog
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages.plan import Plan, Stage, load_network, network_of

SAVE_EVERY = 100  # images between two saves of the histogram

# A function from an image uint8 [H,W,3] to its labels uint8 [H,W] and confidences float32 [H,W].
Predict = Callable[[np.ndarray], tuple[jax.Array, jax.Array]]

# A function from the indices of images to an iterator over what `Predict` returns for them.
Predictions = Callable[[Sequence[int]], Iterator[tuple[np.ndarray, np.ndarray]]]


def check(plan: Plan, stage: Stage) -> None:
    """Refuses invalid rules or outputs before anything is trained.

    Raises:
      ConfigError: names the field, the available outputs, or target images that are scored.
    """
    config = stage.config
    options = read(PseudoLabelOptions, config.pseudo, "pseudo")
    options.check_votes(len(stage.models))
    images, scored = config.benchmark.target, config.benchmark.eval
    same = any(_spec(images)[1:]) and _spec(images) == _spec(scored)
    if options.split == "target" and same and is_labelled(scored):
        raise ConfigError(
            "benchmark.target holds the images that scores are measured on; labelling them for "
            "training makes the scores worthless; pseudo.split='eval' does so anyway"
        )
    for reference in stage.models:
        heads = network_of(plan, reference).heads()
        for head in options.heads:
            one_of(head, heads, f"output of {reference} in pseudo.heads:")


def reads(stage: Stage) -> tuple[str, ...]:
    """Returns the set of images that are labelled."""
    return (stage.config.pseudo.split,)


def bound(fields: Fields) -> Fields:
    """Returns the fields of a stage, and of the labelled split, that decide its labels."""
    names = ("kind", "models", "pseudo", "benchmark.classes", "benchmark.size", "benchmark.resize")
    return only(fields, (*names, f"benchmark.{fields.get('pseudo.split')}"))


def _spec(spec: Any) -> tuple:
    return tuple(spec.get(field, "") for field in ("name", "split", "images", "list"))


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes the stage's `labels/` and `manifest.json` and returns the record of the stage."""
    stage, folder = plan[name], workdir / name
    config, benchmark = stage.config, stage.config.benchmark
    done = folder / "done.json"
    if done.exists():
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    options = read(PseudoLabelOptions, config.pseudo, "pseudo")
    log.say(f"[{name}] {' + '.join(stage.models)} label {benchmark[options.split].name}")
    predict = predictor(
        [load_network(plan, reference, workdir) for reference in stage.models],
        heads=options.heads,
        fusion=options.fusion,
    )
    classes = class_set(benchmark.classes)
    dataset = images(config)
    # Labels that are there were made for its images.
    bind_data(folder, {options.split: fingerprint(dataset)})
    begin = time.perf_counter()
    with shutdown_event() as interrupted, watchdog(config.stall_seconds) as heartbeat:
        sentence = f"stopped in stage {name}; the same command continues there"
        predict = compiling_first(predict, stop=interrupted, sentence=sentence)
        generated = generate(
            functools.partial(predictions, predict, dataset, config),
            folder,
            keys=dataset.keys,
            options=options,
            num_classes=len(classes),
            interrupted=interrupted,
            heartbeat=heartbeat,
        )
    thresholds = None
    if generated.thresholds is not None:
        thresholds = dict(zip(classes.names, generated.thresholds, strict=True))
    rule = {field: config.pseudo[field] for field in ("fusion", "scope", "cut", "cap", "index")}
    record = {
        "models": list(stage.models),
        "rule": rule,
        "heads": list(options.heads),
        "split": options.split,
        "data": dataset.name,
        "classes": classes.name,
        "size": list(benchmark.size),
        "images": len(dataset),
        "coverage": generated.coverage,
        "thresholds": thresholds,
        "pixels": dict(zip(classes.names, generated.pixels, strict=True)),
    }
    write_json(folder / MANIFEST, {**record, "files": generated.files})
    say(record)
    record |= {"seconds": round(time.perf_counter() - begin, 1)}
    write_json(done, record)
    return record


def predictions(
    predict: Predict, dataset: Dataset, config: ConfigDict, order: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields labels and confidence of a data set's examples in an order."""
    stream = eval_stream(
        dataset,
        size=tuple(config.benchmark.size),
        resize=config.benchmark.resize,
        order=order,
        threads=config.threads,
    )
    for example in stream:
        labels, confidence = predict(example["image"])
        yield np.asarray(labels), np.asarray(confidence)


def check_scored(plan: Plan) -> None:
    """Refuses to label target images that an evaluate stage of the plan scores by their labels.

    Raises:
      ConfigError: names the stage and one of the images.
    """
    if not any(stage.kind == "evaluate" for stage in plan.values()):
        return
    for stage in plan.values():
        labels_target = stage.kind == "pseudo_label" and stage.config.pseudo.split == "target"
        if labels_target and is_labelled(stage.config.benchmark.eval):
            _refuse_scored(stage.name, stage.config)


def _refuse_scored(name: str, config: ConfigDict) -> None:
    """Refuses images that are scored, whichever list or folder brings them into the target."""
    scored = load(
        {**config.benchmark.eval, "use": "unlabelled"},
        data_dir=config.data_dir,
        classes=config.benchmark.classes,
    )
    if shared := sorted(_files(images(config)) & _files(scored)):
        raise ConfigError(
            f"stage {name}: benchmark.target holds {len(shared)} of the images that scores are "
            f"measured on, {shared[0]} among them; labelling them for training makes the scores "
            "worthless; pseudo.split='eval' does so anyway"
        )


def _files(dataset: Dataset) -> set[str]:
    return {os.path.realpath(dataset.where(i)) for i in range(len(dataset))}


def images(config: ConfigDict) -> Dataset:
    """Returns the images that a stage labels; their own labels are never opened."""
    role, classes = config.pseudo.split, config.benchmark.classes
    spec = {**config.benchmark[role], "use": "unlabelled"}
    dataset = load(spec, data_dir=config.data_dir, classes=classes, role=role)
    return dataset.unlabelled()


def predictor(models: Sequence[Model], *, heads: Sequence[str], fusion: str) -> Predict:
    """Returns a function from an image uint8 [H,W,3] to uint8 [H,W] labels and float32 confidence.

    Args:
      models: the networks whose softmax maps are fused.
      heads: the outputs of each network.
      fusion: a key of `pseudo_labels.FUSIONS`.
    """
    models = folded([m._replace(module=m.module.clone(auxiliary="always")) for m in models])

    def maps(variables: Sequence[Any], image: jax.Array) -> list[jax.Array]:
        softmax = [
            jax.nn.softmax(outputs[head].astype(jnp.float32), axis=-1)
            for outputs in outputs_of(models, variables, image[None])
            for head in heads
        ]
        # The softmax of a DeepLab's "coarse" is resized (BDL, FDA); all others have the image's
        # size.
        size = (image.shape[0], image.shape[1])
        return [
            p[0] if p.shape[1:3] == size else upsample(p, size=size, align="corners")[0]
            for p in softmax
        ]

    @jax.jit
    def fused(variables: Sequence[Any], image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return pseudo_labels.fuse(jnp.stack(maps(variables, image)), fusion=fusion)

    variables = [model.variables for model in models]
    return lambda image: fused(variables, image)


class Generated(NamedTuple):
    """What a stage wrote.

    Attributes:
      thresholds: the least confidence of each class [K]; None where the scope is an image.
      coverage: the share of pixels with a label.
      pixels: the number of pixels of each class [K].
      files: the SHA-256 of the label file of each key.
    """

    thresholds: list[float] | None
    coverage: float
    pixels: list[int]
    files: dict[str, str]


def generate(
    predictions: Predictions,
    folder: pathlib.Path,
    *,
    keys: Sequence[str],
    options: PseudoLabelOptions,
    num_classes: int,
    interrupted: threading.Event,
    heartbeat: Callable[[], object] = lambda: None,
) -> Generated:
    """Writes `labels/KEY.png` for every key, 255 where a pixel is not sure enough.

    Every process of a job calls it and writes its share of the files.

    Args:
      predictions: the predictions of given images; equal at every call.
      folder: the folder of the files; it may hold files of an earlier call that was killed.
      keys: names of the images.
      options: which pixels keep their label.
      num_classes: K.
      interrupted: an event that ends the work between two images.
      heartbeat: called after every image that was predicted or read again.

    Raises:
      Interrupted: the same call continues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process, processes = parallel.process()
    share = range(process, len(keys), processes)
    work = _Work(predictions, folder, keys, share, num_classes, interrupted, heartbeat)
    rule: dict[str, Any] = {"cut": options.cut, "cap": options.cap, "index": options.index}
    limits = None
    if options.scope == "dataset":
        limits = pseudo_labels.thresholds(work.count(), **rule)
    missing = [i for i in share if not os.path.exists(label_path(folder, keys[i]))]
    for i, (labels, confidence) in work.predicted(missing, "writing labels"):
        image_limits = limits
        if image_limits is None:
            image_limits = pseudo_labels.exact_thresholds(
                labels, confidence, num_classes=num_classes, **rule
            )
        path = pathlib.Path(label_path(folder, keys[i]))
        write_bytes(path, png(pseudo_labels.assign(labels, confidence, image_limits)))
    return work.survey(None if limits is None else limits.tolist())


@dataclasses.dataclass(frozen=True)
class _Work:
    """The images that a process labels; the attributes are explained at `generate`."""

    predictions: Predictions
    folder: pathlib.Path
    keys: Sequence[str]
    share: range  # the positions of this process's images among the keys
    num_classes: int
    interrupted: threading.Event
    heartbeat: Callable[[], object]

    def count(self) -> np.ndarray:
        """Returns the histogram of confidences of all images, each process counting its share.

        The main process goes on with the histogram of earlier runs, and the others begin one each.
        """
        total, shape = len(self.keys), (self.num_classes, pseudo_labels.BINS)
        parallel.on_main(
            lambda: merge_histograms(self.folder, images=total, shape=shape, say=log.say)
        )
        path = self.folder / HISTOGRAM
        done, counts = read_histogram(path, images=total, shape=shape)
        order = [i for i in self.share if not done[i]]
        if not parallel.is_main():
            path = self.folder / part_of_histogram(self.share.start)
            done, counts = np.zeros_like(done), np.zeros_like(counts)

        def save() -> None:
            write_npz(path, done=done, counts=counts)

        predicted = self.predicted(order, "counting confidences", save)
        for number, (i, (labels, confidence)) in enumerate(predicted, start=1):
            counts += pseudo_labels.histogram(labels, confidence, num_classes=self.num_classes)
            done[i] = True
            if number % SAVE_EVERY == 0 or number == len(order):
                save()
        return parallel.sum_counts(counts)

    def predicted(
        self, order: Sequence[int], what: str, save: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Yields the indices of images and their predictions, with progress; a signal ends them."""
        if not order:
            return
        progress = Progress(f"  {what}", len(self.share), len(self.share) - len(order))
        for i, prediction in zip(order, self.predictions(order), strict=True):
            self.heartbeat()
            yield i, prediction
            progress.add(1)
            if self.interrupted.is_set():
                save()
                progress.end()
                raise Interrupted(f"stopped after image {i + 1}; the same command continues there")
        progress.end()

    def survey(self, thresholds: list[float] | None) -> Generated:
        """Returns what is on the disk. Each process reads its share, and all return the whole."""
        digests, counts = [], np.zeros(256, np.int64)
        for i in self.share:
            path = label_path(self.folder, self.keys[i])
            data = read_bytes(path)
            digests.append(hashlib.sha256(data).hexdigest())
            with pictures.opened(data, path) as image:
                counts += np.bincount(np.asarray(image).ravel(), minlength=256)
            self.heartbeat()
        counts = parallel.sum_counts(counts)
        rows = [text.split() for text in parallel.gather_text(" ".join(digests))]
        files = {key: rows[i % len(rows)][i // len(rows)] for i, key in enumerate(self.keys)}
        pixels = counts[: self.num_classes]
        return Generated(thresholds, float(pixels.sum() / counts.sum()), pixels.tolist(), files)


def say(record: dict[str, Any]) -> None:
    """Prints the coverage, the share of each class, and the classes without any pixel."""
    total = max(sum(record["pixels"].values()), 1)
    shares = {name: n / total for name, n in record["pixels"].items()}
    log.say(f"  {100 * record['coverage']:.1f}% of the pixels are labelled; of these")
    present = [f"{name} {100 * share:.1f}%" for name, share in shares.items() if share]
    log.say("  " + ", ".join(present))
    absent = [name for name, share in shares.items() if not share]
    if absent:
        log.say(f"  no pixel: {', '.join(absent)}")
