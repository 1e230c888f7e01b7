"""The batches a train stage learns from: its benchmark's paired stream."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rtda_jax.adapt import views
from rtda_jax.data import (
    Candidates,
    DataError,
    Dataset,
    RareClass,
    counted,
    load,
    load_pseudo,
    train_stream,
)
from rtda_jax.errors import ConfigError
from rtda_jax.run import log, parallel

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]


def labelled_set(config: Any) -> Dataset:
    """The set whose labels supervise; the target's are opened only with labelled="target"."""
    benchmark = config.benchmark
    specs = {"source": benchmark.source, "target": benchmark.target_labelled}
    if config.labelled not in specs:
        raise ConfigError(f"labelled must be source or target, got {config.labelled!r}")
    spec = specs[config.labelled]
    if not spec:
        raise DataError(f"benchmark {benchmark.name} has no labelled target images to train on")
    return load(spec, data_dir=config.data_dir, classes=benchmark.classes)


def class_counts(config: Any, dataset: Dataset, *, folder: pathlib.Path) -> np.ndarray:
    """Pixels of each class in each labelled example, int64 [N,K], kept in a stage's folder.

    Of several processes the main one counts, and the others read its file.
    """
    path = folder / "class_counts.npz"
    if parallel.is_main():
        if not path.exists():
            log.say(f"  counting the classes of {dataset.name}, {len(dataset)} labels")
        counted(dataset, path, threads=config.threads)
    parallel.barrier("class counts")
    return counted(dataset, path, threads=config.threads)


def paired(
    config: Any, *, needs_target: bool, folder: pathlib.Path, pseudo: pathlib.Path | None = None
) -> Batches:
    """From a start step to the benchmark's stream.

    Args:
      config: a train stage's configuration.
      needs_target: whether target images are read at all.
      folder: the stage's, for what is counted once.
      pseudo: folder of labels for the target's images, see `data.load_pseudo`.
    """
    benchmark = config.benchmark
    process_index, process_count = parallel.process()
    source, target = labelled_set(config), None
    if needs_target:
        target = load(benchmark.target, data_dir=config.data_dir, classes=benchmark.classes)
    labels = load_pseudo(pseudo, target=target) if pseudo and target else None
    rare = candidates = None
    if config.rare_class is not None or views.pastes(config):
        counts = class_counts(config, source, folder=folder)
    if config.rare_class is not None:
        rare = RareClass(counts, temperature=config.rare_class)
    if views.pastes(config):
        candidates = Candidates(
            counts,
            slots=config.long_tail.slots,
            probability=config.long_tail.probability,
            classes=tuple(config.long_tail.classes),
            min_pixels=config.long_tail.min_pixels,
        )

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        return train_stream(
            source,
            target,
            pseudo=labels,
            seed=config.seed,
            start_step=start,
            batch_size=config.batch_size,
            size=tuple(benchmark.size),
            crop=tuple(benchmark.crop),
            flip=config.augment.flip,
            scale=tuple(config.augment.scale),
            rare=rare,
            candidates=candidates,
            target_moves=config.augment.target_moves,
            cache_bytes=int(config.cache_gib * 2**30),
            threads=config.threads,
            process_index=process_index,
            process_count=process_count,
        )

    return batches


def named(config: Any, domain: str, indices: np.ndarray) -> list[str]:
    """The names of examples of a domain of the benchmark's stream."""
    benchmark = config.benchmark
    if domain == "source":
        dataset = labelled_set(config)
    else:
        dataset = load(benchmark.target, data_dir=config.data_dir, classes=benchmark.classes)
    return [dataset.keys[i] for i in indices]
