"""The batches that a train stage learns from: its configuration turned into a stream."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rtda_jax.data import load
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import class_set
from rtda_jax.data.pseudo import load_pseudo
from rtda_jax.data.sampling import (
    Candidates,
    RareClass,
    cached_class_counts,
    dataset_sentences,
    enet_weights,
    frequencies,
    shapes,
    stretching,
)
from rtda_jax.data.stream import TARGET_MOVES, Batch, Frame, Margins, padding, train_stream
from rtda_jax.errors import DataError, lookup, one_of, require
from rtda_jax.run import log, parallel
from rtda_jax.run.binding import begun, bind_data
from rtda_jax.run.files import read_npz
from rtda_jax.run.workdir import write_json

Batches = Callable[[int], Iterator[Batch]]


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """The fields of a configuration that decide which images are read, and how.

    Attributes:
      rare_class: the temperature of rare class sampling, such as 0.01; None samples uniformly.
      rare_min_pixels: the least number of pixels of a class in the label file of an image that is
        drawn for it; a crop shows the class with more than half as many. DAFormer: 3000, for crops
        of 512x512.
      rare_crops: the largest number of crops that are drawn from such an image until one shows the
        class. With 1, any crop is used; DAFormer's code draws 11.
      target_margins: the margins at the top, bottom, left and right of the target's images that get
        no pseudo-labels of the teacher, in pixels of `benchmark.size`. HRDA: 30, 240, 30, 30 of
        1024x2048. They follow the image through zoom and crop, whereas `teacher.borders` are the
        borders of every crop.
      cache_gib: the GiB of decoded images that each domain may keep in memory.
      threads: the threads of the input pipeline, 0 for one per core; the data do not depend on it.
    """

    rare_class: float | None = None
    rare_min_pixels: int = 1
    rare_crops: int = 1
    target_margins: Margins = (0, 0, 0, 0)
    cache_gib: float = 0.0
    threads: int = 2

    def __post_init__(self) -> None:
        rare = self.rare_class
        require(rare is None or rare > 0, f"rare_class must be above 0, got {rare}")
        for name in ("rare_min_pixels", "rare_crops"):
            number = getattr(self, name)
            require(number >= 1, f"{name} must be at least 1, got {number}")
        margins = self.target_margins
        valid = len(margins) == 4 and min(margins) >= 0
        require(valid, f"target_margins must be 4 numbers of pixels from 0, got {margins}")
        require(self.cache_gib >= 0, f"cache_gib must be at least 0, got {self.cache_gib:g}")
        require(self.threads >= 0, f"threads must be at least 0, got {self.threads}")


@dataclasses.dataclass(frozen=True)
class MoveOptions:
    """The fields of the section `augment` that move image and label together, on the host.

    Attributes:
      flip: whether half of the images are mirrored.
      scale: range of the random zoom before the crop.
      target_moves: mirror, zoom and crop of the target are drawn for "each" image, or "once" for
        the whole run, as TUFL's released code does.
    """

    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    target_moves: str = "each"

    def __post_init__(self) -> None:
        valid = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        require(valid, f"augment.scale must be a range (low, high) above 0, got {self.scale}")
        one_of(self.target_moves, TARGET_MOVES, "augment.target_moves")


def labelled_set(config: ConfigDict) -> Dataset:
    """Returns the set whose labels supervise; the target's are opened only by labelled="target"."""
    benchmark = config.benchmark
    specs = {"source": benchmark.source, "target": benchmark.target_labelled}
    spec = lookup(specs, config.labelled, "labelled")
    if not spec:
        raise DataError(f"benchmark {benchmark.name} has no labelled target images to train on")
    return load(spec, data_dir=config.data_dir, classes=benchmark.classes)


def labelled_frame(config: ConfigDict) -> Frame:
    """Returns the size, crop and resizing of the images of `labelled_set`."""
    benchmark = config.benchmark
    prefix = "source_" if config.labelled == "source" else ""
    size, crop = (tuple(benchmark[f"{prefix}{name}"]) for name in ("size", "crop"))
    return Frame(size, crop, benchmark[f"{prefix}resize"])


def target_set(config: ConfigDict) -> Dataset:
    """Returns the set of the target's training images."""
    benchmark = config.benchmark
    return load(benchmark.target, data_dir=config.data_dir, classes=benchmark.classes)


def introduction(config: ConfigDict, *, needs_target: bool) -> list[str]:
    """Returns sentences about the data of a train stage, for the start of its log.

    They say which files were found and left out, which classes occur in a sample of the labels,
    whether images are stretched, and how much of the source's crops is padding. Doubts begin with
    "warning:".

    Args:
      config: a train stage's configuration.
      needs_target: whether target images are read at all.
    """
    source, frame = labelled_set(config), labelled_frame(config)
    assert frame.size is not None and frame.crop is not None
    prefix = "source_" if config.labelled == "source" else ""
    lines = dataset_sentences(source)
    lines += stretching(shapes(source), frame.size, field=f"benchmark.{prefix}size")
    if needs_target:
        target = target_set(config).unlabelled()
        lines += dataset_sentences(target)
        size = tuple(config.benchmark.size)
        lines += stretching(shapes(target), size, field="benchmark.size")
    return lines + padding(frame.size, frame.crop, tuple(config.augment.scale))


def stage_class_counts(config: ConfigDict, dataset: Dataset, *, folder: pathlib.Path) -> np.ndarray:
    """Returns the number of pixels of each class in each labelled example, int64 [N,K].

    They are counted once and kept in the stage's folder. The main process counts, and the others
    read its file.

    Raises:
      ConfigError: in every process; labels have changed since the stage began, so that it would
        draw other images and use other class weights.
    """
    path = folder / "class_counts.npz"

    def count() -> None:
        if not path.exists():
            log.say(f"  counting the classes of {dataset.name}, {len(dataset)} labels")
        expected = read_npz(path).get("counts") if begun(folder) else None
        cached_class_counts(dataset, path, threads=config.threads, expected=expected)

    parallel.on_main(count)
    return cached_class_counts(dataset, path, threads=config.threads)


def with_enet_weights(config: ConfigDict, folder: pathlib.Path) -> Any:
    """Returns the configuration with ENet's class weights as numbers (loss.weighting="enet").

    The labels of the training set are counted once, as a stream. The weights are also written to
    `class_weights.json` for information; an interrupted stage computes them again from the counts.

    Args:
      config: a train stage's configuration.
      folder: the stage's folder, in which the counts are kept.
    """
    counts = stage_class_counts(config, labelled_set(config), folder=folder)
    weights = enet_weights(frequencies(counts), c=config.loss.enet_c).tolist()
    names = class_set(config.benchmark.classes).names
    write_json(folder / "class_weights.json", dict(zip(names, weights, strict=True)))
    weighted = config.copy_and_resolve_references()
    weighted.update_from_flattened_dict({"loss.weighting": "given", "loss.weights": tuple(weights)})
    return weighted


def paired_batches(
    config: ConfigDict,
    *,
    needs_target: bool,
    folder: pathlib.Path,
    pseudo_folder: pathlib.Path | None = None,
) -> Batches:
    """Returns the benchmark's stream as a function of the step that it starts at.

    Args:
      config: a train stage's configuration.
      needs_target: whether target images are read at all.
      folder: the stage's folder, in which class counts are kept.
      pseudo_folder: labels for the target's images, see `data.load_pseudo`.
    """
    benchmark = config.benchmark
    process_index, process_count = parallel.process()
    source = labelled_set(config)
    target = target_set(config) if needs_target else None
    bind_data(folder, {"source": source, **({"target": target} if target else {})})
    pseudo_labels = None
    if pseudo_folder and target:
        pseudo_labels = load_pseudo(pseudo_folder, target=target)
    rare = candidates = None
    if config.rare_class is not None or config.long_tail.probability > 0:
        counts = stage_class_counts(config, source, folder=folder)
    if config.rare_class is not None:
        rare = RareClass(
            counts,
            temperature=config.rare_class,
            min_pixels=config.rare_min_pixels,
            crops=config.rare_crops,
        )
    if config.long_tail.probability > 0:
        candidates = Candidates(
            counts,
            slots=config.long_tail.slots,
            probability=config.long_tail.probability,
            classes=tuple(config.long_tail.classes),
            min_pixels=config.long_tail.min_pixels,
        )

    def batches(start: int) -> Iterator[Batch]:
        return train_stream(
            source,
            target,
            pseudo_labels=pseudo_labels,
            seed=config.seed,
            start_step=start,
            batch_size=config.batch_size,
            size=tuple(benchmark.size),
            crop=tuple(benchmark.crop),
            resize=benchmark.resize,
            source_frame=labelled_frame(config),
            flip=config.augment.flip,
            scale=tuple(config.augment.scale),
            rare=rare,
            candidates=candidates,
            target_moves=config.augment.target_moves,
            target_margins=tuple(config.target_margins),
            cache_bytes=int(config.cache_gib * 2**30),
            threads=config.threads,
            process_index=process_index,
            process_count=process_count,
        )

    return batches


def example_names(config: ConfigDict, domain: str, indices: np.ndarray) -> list[str]:
    """Returns the names of examples of a domain ("source" or "target") of the stream."""
    dataset = labelled_set(config) if domain == "source" else target_set(config)
    return [dataset.keys[i] for i in indices]
