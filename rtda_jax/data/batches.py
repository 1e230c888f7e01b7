"""The batches that a train stage learns from: its configuration turned into a stream."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rtda_jax.data import load
from rtda_jax.data.dataset import Dataset, Images, fingerprint
from rtda_jax.data.labels import class_set
from rtda_jax.data.pictures import FILTERS, stretching
from rtda_jax.data.pseudo import load_pseudo
from rtda_jax.data.sampling import (
    Candidates,
    RareClass,
    cached_class_counts,
    check_classes,
    dataset_sentences,
    enet_weights,
    frequencies,
    shapes,
)
from rtda_jax.data.stream import (
    Batch,
    Frame,
    MoveOptions,
    StreamOptions,
    check_candidates,
    check_sizes,
    padding,
    train_stream,
)
from rtda_jax.errors import DataError, lookup, one_of, require
from rtda_jax.run import parallel
from rtda_jax.run.binding import begun, bind_data, check_fingerprints
from rtda_jax.run.files import read_npz
from rtda_jax.run.options import read
from rtda_jax.run.workdir import write_json

Batches = Callable[[int], Iterator[Batch]]
# The role of the set whose labels supervise, by the value of `labelled`.
LABELLED_ROLES = {"source": "source", "target": "target_labelled"}
LARGEST_SIDE = 2**16  # enough for any image, and small enough for shapes to be machine integers


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """The fields of every benchmark except the specifications of its data.

    Attributes:
      classes, eval_classes: names of class sets, or definitions of the user's own classes.
      size, source_size: (H, W) that images are resized to before the crop.
      crop, source_crop: (H, W) of a training batch.
      resize, source_resize: how images are resized, keys of `FILTERS`.
      eval_size: (H, W) that images are resized to for evaluation.
    """

    classes: str
    eval_classes: str
    size: tuple[int, int]
    crop: tuple[int, int]
    resize: str
    source_size: tuple[int, int]
    source_crop: tuple[int, int]
    source_resize: str
    eval_size: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("resize", "source_resize"):
            one_of(getattr(self, name), FILTERS, f"benchmark.{name}")
        for name in ("size", "crop", "source_size", "source_crop", "eval_size"):
            sides = getattr(self, name)
            valid = all(1 <= side <= LARGEST_SIDE for side in sides)
            require(
                valid, f"benchmark.{name} must be sides of 1 to {LARGEST_SIDE} pixels, got {sides}"
            )
        for name in ("classes", "eval_classes"):
            class_set(getattr(self, name))


def labelled_set(config: ConfigDict) -> Dataset:
    """Returns the set whose labels supervise; the target's are opened only by labelled="target"."""
    role = lookup(LABELLED_ROLES, config.labelled, "labelled")
    if not config.benchmark[role]:
        name = config.benchmark.name
        raise DataError(f"benchmark {name} has no labelled target images to train on")
    return _load(config, role, config.benchmark[role])


def target_set(config: ConfigDict) -> Dataset:
    """Returns the set of the target's training images."""
    return _load(config, "target", config.benchmark.target)


def _load(config: ConfigDict, role: str, spec: Mapping[str, Any]) -> Dataset:
    """Loads the data set of a specification, which has a role in the benchmark."""
    return load(spec, data_dir=config.data_dir, classes=config.benchmark.classes, role=role)


def frame(config: ConfigDict, domain: str) -> Frame:
    """Returns the size, crop and resizing of a domain's images.

    Args:
      config: a train stage's configuration.
      domain: "source" or "target".
    """
    prefix = "source_" if domain == "source" else ""
    size, crop = (tuple(config.benchmark[f"{prefix}{name}"]) for name in ("size", "crop"))
    return Frame(size, crop, config.benchmark[f"{prefix}resize"])


def look_for(config: ConfigDict, roles: Iterable[str]) -> dict[str, Dataset]:
    """Returns data sets by role, as files; it neither decodes images nor prepares shards of them.

    Args:
      config: a stage's configuration.
      roles: fields of `benchmark`, such as "source" and "target".

    Raises:
      DataError: names what is missing.
    """
    benchmark, sets = config.benchmark, {}
    for role in roles:
        if not benchmark[role]:
            raise DataError(f"benchmark {benchmark.name} has no {role} images")
        spec = dict(benchmark[role])
        spec |= {"store": "files"} if "store" in spec else {}
        sets[role] = _load(config, role, spec)
    return sets


class _Named(NamedTuple):
    """Images without files of their own, such as those of shards."""

    keys: Sequence[str]

    def where(self, i: int) -> str:
        """Returns no path."""
        del i
        return ""


def check_same(config: ConfigDict, role: str, folder: pathlib.Path) -> None:
    """Refuses other images than those with which a stage began, also if it is finished.

    Args:
      config: the stage's configuration.
      role: a field of `benchmark` that the stage reads.
      folder: the stage's folder.

    Raises:
      ConfigError: names the role.
    """
    with contextlib.suppress(DataError):  # the files of a finished stage may be gone
        images: Images = look_for(config, [role])[role]
        if config.benchmark[role].get("store") == "shards":
            images = _Named(images.keys)
        bound = "source" if role == "target_labelled" else role  # see `paired_batches`
        check_fingerprints(folder, {bound: fingerprint(images)})


def check_frames(config: ConfigDict, *, needs_target: bool) -> None:
    """Refuses sizes, crops, zooms and pasted classes of a train stage that do not fit together.

    Raises:
      DataError: names what does not fit.
    """
    scale, source = tuple(config.augment.scale), frame(config, config.labelled)
    check_sizes(source, scale)
    if needs_target:
        check_sizes(frame(config, "target"), scale)
    if config.long_tail.probability > 0:
        check_candidates(source)
        classes = class_set(config.benchmark.classes)
        check_classes(config.long_tail.classes, num_classes=len(classes))


def introduction(config: ConfigDict, *, needs_target: bool) -> list[str]:
    """Returns sentences about the data of a train stage, for the start of its log.

    They say which files were found and left out, which classes occur in a sample of the labels,
    whether images are stretched, and how much of the source's crops is padding. Doubts begin with
    "warning:".

    Args:
      config: a train stage's configuration.
      needs_target: whether target images are read at all.
    """
    source, source_frame = labelled_set(config), frame(config, config.labelled)
    assert source_frame.size is not None and source_frame.crop is not None
    prefix = "source_" if config.labelled == "source" else ""
    lines = dataset_sentences(source)
    lines += stretching(shapes(source), source_frame.size, field=f"benchmark.{prefix}size")
    if needs_target:
        target = target_set(config).unlabelled()
        lines += dataset_sentences(target)
        size = tuple(config.benchmark.size)
        lines += stretching(shapes(target), size, field="benchmark.size")
    return lines + padding(source_frame.size, source_frame.crop, tuple(config.augment.scale))


def stage_class_counts(config: ConfigDict, dataset: Dataset, *, folder: pathlib.Path) -> np.ndarray:
    """Returns the number of pixels of each class in each labelled example, int64 [N,K].

    They are counted once and kept in the stage's folder. The main process counts, and the others
    read its file, whatever the times of their own copies of the labels are.

    Raises:
      DataError: this process cannot read what the main process counted.
      ConfigError: in every process; labels have changed since the stage began, so that it would
        draw other images and use other class weights.
    """
    path = folder / "class_counts.npz"

    def count() -> None:
        expected = read_npz(path).get("counts") if begun(folder) else None
        cached_class_counts(dataset, path, threads=config.threads, expected=expected)

    parallel.on_main(count)
    counts = read_npz(path).get("counts")
    if counts is None or counts.shape != (len(dataset), len(dataset.classes)):
        raise DataError(
            f"{path}: does not hold what the main process counted in {dataset.name}; all processes "
            "must see one --workdir and the same data"
        )
    return counts


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

    Raises:
      DataError: a set cannot be read, or sizes, crops and zooms do not fit together.
    """
    options = read(StreamOptions, config, "")
    process_index, process_count = parallel.process()
    source = labelled_set(config)
    target = target_set(config) if needs_target else None
    sets = {"source": source, **({"target": target} if target else {})}
    bind_data(folder, {role: fingerprint(images) for role, images in sets.items()})
    pseudo_labels = None
    if pseudo_folder and target:
        pseudo_labels = load_pseudo(pseudo_folder, target=target)
    rare = candidates = None
    if options.rare_class is not None or config.long_tail.probability > 0:
        counts = stage_class_counts(config, source, folder=folder)
    if options.rare_class is not None:
        rare = RareClass(
            counts,
            temperature=options.rare_class,
            min_pixels=options.rare_min_pixels,
            crops=options.rare_crops,
        )
    if config.long_tail.probability > 0:
        candidates = Candidates(
            counts,
            slots=config.long_tail.slots,
            probability=config.long_tail.probability,
            classes=tuple(config.long_tail.classes),
            min_pixels=config.long_tail.min_pixels,
        )

    moves = read(MoveOptions, config.augment, "augment")
    frames = {"source": frame(config, config.labelled), "target": frame(config, "target")}
    # Checked here as well, because the stream begins only after the network was compiled.
    check_frames(config, needs_target=needs_target)

    def batches(start: int) -> Iterator[Batch]:
        return train_stream(
            source,
            target,
            seed=config.seed,
            batch_size=config.batch_size,
            frame=frames["target"],
            source_frame=frames["source"],
            moves=moves,
            options=options,
            pseudo_labels=pseudo_labels,
            rare=rare,
            candidates=candidates,
            start_step=start,
            process_index=process_index,
            process_count=process_count,
        )

    return batches


def checked(batches: Batches, config: ConfigDict, *, needs_target: bool) -> Batches:
    """Returns batches of the user's own, of which the first is checked by `check_batch`."""

    def checking(start: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(start)):
            if number == 0:
                check_batch(batch, config, needs_target=needs_target)
            yield batch

    return checking


def check_batch(batch: Batch, config: ConfigDict, *, needs_target: bool) -> None:
    """Refuses a batch, or this process's share of one, that is not as the configuration says.

    Raises:
      DataError: names the key, what it holds and what is expected.
    """
    images = config.batch_size // parallel.process()[1]
    needed = ["source_image", "source_label", "source_index"]
    needed += ["target_image"] * needs_target + ["target_label"] * bool(config.pseudo_labels)
    share = f"batch_size={config.batch_size}, of which this process has {images}"
    for domain, role in (("source", config.labelled), ("target", "target")):
        crop = frame(config, role).crop or ()
        for name, kind, shape in (
            ("image", np.uint8, (images, *crop, 3)),
            ("label", np.integer, (images, *crop)),
            ("index", np.integer, (images,)),
        ):
            key = f"{domain}_{name}"
            if key in batch:
                array: Any = batch[key]  # type: ignore[literal-required] # the key is made above
                fits = np.issubdtype(array.dtype, kind) and array.shape == shape
                found = f"{array.dtype} {array.shape}"
            else:
                fits, found = key not in needed, "absent"
            if not fits:
                raise DataError(
                    f"{key} of the first batch is {found}; expected {kind.__name__} {shape}: "
                    f"{share}, and crops of {crop}"
                )


def example_names(config: ConfigDict, domain: str, indices: np.ndarray) -> list[str]:
    """Returns the names of examples of a domain ("source" or "target") of the stream."""
    dataset = labelled_set(config) if domain == "source" else target_set(config)
    return [dataset.keys[i] for i in indices]
