"""Class counts of a labelled set: what they say about its labels, and sampling that uses them.

The draws themselves run inside the tf.data graph (`rtda_jax.data.pipeline`).
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rtda_jax.data import decode, pictures
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import IGNORE, LABELLINGS, ClassSet, known_ids, unnamed
from rtda_jax.errors import ConfigError, DataError, printable
from rtda_jax.run.files import read_npz, write_npz
from rtda_jax.run.log import Progress, counted
from rtda_jax.tools import environment

_SAMPLE = 32  # labels that `dataset_sentences` reads
_GLANCE = 8  # labels that `glance` reads
_SHAPES = 8  # images whose size is looked up


def count_labels(dataset: Dataset, *, threads: int | None = None) -> np.ndarray:
    """Counts the pixels of each class in each example.

    Only one label per thread is in memory at a time. A line on stderr shows the progress.

    Returns:
      int64 [N,K+1]; the last column counts the ignored pixels.

    Raises:
      DataError: the set has no labels, or a file cannot be read.
    """
    if dataset.labelling is None:
        raise DataError(f"{dataset.name}: has no labels to count")
    classes = len(dataset.classes)
    counts = np.zeros((len(dataset), classes + 1), np.int64)

    def count(i: int) -> None:
        with decode.remedied(dataset):
            classes_of = decode.label(dataset, i)
        histogram = np.bincount(classes_of.ravel(), minlength=IGNORE + 1)
        counts[i, :classes] = histogram[:classes]
        counts[i, classes] = histogram[IGNORE]

    progress = Progress(f"counting the classes of {dataset.name}", len(dataset), unit="label")
    with ThreadPoolExecutor(threads or environment.cores()) as pool:
        for _ in pool.map(count, range(len(dataset))):
            progress.add(1)
    progress.end()
    return counts


def cached_class_counts(
    dataset: Dataset,
    path: pathlib.Path,
    *,
    threads: int | None = None,
    expected: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the number of pixels of each class in each labelled example, cached in a file.

    The labels are counted again (`count_labels`) if the file is damaged or describes other
    examples, other classes or label files that have changed since.

    Args:
      dataset: a labelled set.
      path: the cache, `.npz`.
      threads: the threads that decode; by default one per core.
      expected: int64 [N,K], the counts with which the stage began; None if it has not begun.

    Returns:
      int64 [N,K].

    Raises:
      ConfigError: the labels were counted again and the counts are not the expected ones; the cache
        is not changed.
    """
    meaning = repr(unnamed(dataset.labelling))
    about = {
        "name": np.array(dataset.name),
        "keys": np.array([json.dumps(key) for key in dataset.keys]),  # escapes every name to ASCII
        "classes": np.array(dataset.classes.names),
        "labels": np.array([meaning, dataset.reader.fingerprint(labels=True)]),
    }
    cached = read_npz(path)
    same = all(name in cached and np.array_equal(cached[name], v) for name, v in about.items())
    shape = (len(dataset), len(dataset.classes))
    if same and "counts" in cached and cached["counts"].shape == shape:
        return cached["counts"]
    counts = count_labels(dataset, threads=threads)[:, :-1]
    if expected is not None and not np.array_equal(counts, expected):
        rows = zip(dataset.keys, counts, expected, strict=False)
        changed = [key for key, now, then in rows if not np.array_equal(now, then)]
        raise ConfigError(
            f"{dataset.name}: the labels show other classes than those that {path} counted and the "
            f"stage began with, such as the label of {printable([*changed, *dataset.keys][0])}. "
            "Choose another --workdir, or give the labels it began with."
        )
    write_npz(path, counts=counts, **about)
    return counts


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Returns the share of each class in the valid pixels, float64 [K].

    Args:
      counts: pixels of each class, [K] or [N,K].
    """
    total = counts.reshape(-1, counts.shape[-1]).sum(axis=0).astype(np.float64)
    return total / max(total.sum(), 1.0)


def enet_weights(frequency: np.ndarray, *, c: float = 1.02) -> np.ndarray:
    """Returns ENet's class weights 1 / ln(c + f), float64 [K] (Paszke et al. 2016)."""
    return 1.0 / np.log(c + np.asarray(frequency, np.float64))


def contents(dataset: Dataset, raw: np.ndarray) -> dict[str, Any]:
    """Returns class frequencies and class weights from a histogram of raw ids.

    Args:
      dataset: the data set whose labels were counted.
      raw: the number of pixels of each raw id, int64 [256].

    Returns:
      raw_ids: raw id -> pixels; ignored: share of all pixels; frequencies and enet_weights: class
      name -> number. Empty for an unlabelled set.
    """
    if dataset.labelling is None:
        return {}
    lut = dataset.classes.lut(dataset.labelling)
    counts = np.array([raw[lut == number].sum() for number in range(len(dataset.classes))])
    frequency = frequencies(counts)
    weights = enet_weights(frequency)
    total = max(int(raw.sum()), 1)
    names = dataset.classes.names
    return {
        "raw_ids": {
            str(dataset.labelling.number(i)): int(raw[i]) for i in np.flatnonzero(raw).tolist()
        },
        "ignored": float(1 - counts.sum() / total),
        "frequencies": dict(zip(names, frequency.tolist(), strict=True)),
        "enet_weights": dict(zip(names, weights.tolist(), strict=True)),
    }


def dataset_sentences(dataset: Dataset, *, sample: int = _SAMPLE) -> list[str]:
    """Returns sentences about a data set for the start of a training run.

    They say how many images there are and what was left out. For a labelled set they also say which
    share of the pixels is ignored and which classes occur in a sample of evenly spaced labels.
    Doubts about the labelling begin with "warning:".

    Raises:
      DataError: a label that cannot be read.
    """
    count = len(dataset)
    lines = [f"{dataset.title}: {counted(count, 'image')}", *dataset.notes]
    if dataset.labelling is None:
        return [printable(line, limit=None) for line in lines]
    raw, read = _sampled(dataset, sample), min(sample, count)
    summary = contents(dataset, raw)
    shares = sorted(summary["frequencies"].items(), key=lambda row: -row[1])
    absent = [name for name, share in shares if not share]
    lines.append(
        f"labels {dataset.labelling.name}, in {read} of them: {summary['ignored']:.1%} of "
        "the pixels are ignored; classes "
        + (", ".join(f"{name} {share:.1%}" for name, share in shares if share) or "none")
        + (f"; none of {', '.join(absent)}" if absent else "")
    )
    lines += [f"warning: {doubt}" for doubt in suspicions(dataset, raw)]
    return [printable(line, limit=None) for line in lines]


def glance(dataset: Dataset) -> list[str]:
    """Returns reasons to doubt the configured labelling, from a few of the labels.

    Raises:
      DataError: a label that cannot be read.
    """
    if dataset.labelling is None:
        return []
    doubts = suspicions(dataset, _sampled(dataset, _GLANCE))
    return [printable(doubt, limit=None) for doubt in doubts]


def _sampled(dataset: Dataset, sample: int) -> np.ndarray:
    """Counts the raw ids in evenly spaced labels, int64 [256]."""
    raw = np.zeros(256, np.int64)
    for i in _evenly(len(dataset), sample):
        with decode.remedied(dataset):
            ids = decode.examine_ids(dataset, i)[1]
        assert ids is not None
        raw += np.bincount(ids.ravel(), minlength=256)
    return raw


def shapes(dataset: Dataset) -> collections.Counter[tuple[int, int]]:
    """Returns how many of some evenly spaced images have each shape (H, W).

    Images that cannot be read are left out; the jobs that need them name them.
    """
    images: collections.Counter[tuple[int, int]] = collections.Counter()
    for i in _evenly(len(dataset), _SHAPES):
        with contextlib.suppress(DataError):
            height, width, _ = pictures.rgb(dataset.reader.image(i), dataset.where(i)).shape
            images[height, width] += 1
    return images


def suspicions(dataset: Dataset, raw: np.ndarray) -> list[str]:
    """Returns reasons to doubt the configured labelling, from the raw ids that occur.

    Args:
      dataset: the data set whose labels were counted.
      raw: the number of pixels of each raw id, int64 [256].
    """
    meaning, total = dataset.labelling, int(raw.sum())
    if meaning is None or not total:
        return []
    classes = dataset.classes
    ignored = contents(dataset, raw)["ignored"]
    occurring = set(np.flatnonzero(raw).tolist())
    table = classes.lut(meaning)
    if not any(table[i] < len(classes) for i in occurring):
        fitting = [name for name in classes.labellings if _gives(classes, name, occurring)]
        others = (
            f"; labellings in which they mean something: {', '.join(fitting)}" if fitting else ""
        )
        numbers = decode.ranges([meaning.number(i) for i in occurring])
        return [f"labelling {meaning.name!r}: only ids {numbers} occur, all ignored by it{others}"]
    doubts = []
    as_train_ids = meaning.name in ("cityscapes_ids", "gta5_ids") and ignored > 0.2
    if as_train_ids and occurring <= {*range(19), IGNORE}:
        doubts.append(
            f"labelling {meaning.name!r}: only ids 0..18 and 255 occur and {ignored:.0%} of the "
            "pixels are ignored; these look like train ids (labelling 'train_ids')"
        )
    if ignored > 0.5 and not doubts:
        lost = [i for i in np.argsort(-raw) if raw[i] and table[i] >= len(classes)]
        shares = ", ".join(f"id {meaning.number(int(i))} {raw[i] / total:.0%}" for i in lost[:4])
        doubts.append(
            f"labelling {meaning.name!r}: {ignored:.0%} of the pixels are ignored ({shares}); is "
            "this what the labels mean?"
        )
    if meaning.name in ("classes", "train_ids") and not occurring & {0, IGNORE}:
        doubts.append(
            f"labelling {meaning.name!r}: neither 0 ({classes.names[0]}) nor 255 (ignored) occurs; "
            "if the classes are numbered from 1 and 0 is ignored, this is 'classes_from_1'"
        )
    unused = set(known_ids(meaning, classes)) - occurring
    if meaning.classes and not doubts and len(unused) > len(occurring):
        doubts.append(
            f"{meaning.name}: only the ids {sorted(map(meaning.number, occurring))} occur"
        )
    return doubts


def _gives(classes: ClassSet, name: str, occurring: set[int]) -> bool:
    """Returns whether files of one channel with these ids may be of a labelling, by its name."""
    meaning = LABELLINGS[name]
    table, ids = classes.lut(meaning), list(occurring)
    listed = meaning.encoding == "index" and occurring <= {*known_ids(meaning, classes)}
    return listed and bool((table[ids] < len(classes)).any())


def _evenly(count: int, sample: int) -> Sequence[int]:
    """Returns up to `sample` of the numbers 0..count-1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(sample, count)).round().astype(int)).tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class RareClass:
    """Draws source images by class: a class, rare ones more often, then an image that shows it.

    P(c) is proportional to exp((1 - f_c) / temperature), where f_c is the share of class c in the
    valid pixels (Hoyer et al., DAFormer, 2022, eq. 9). With `crops` above 1, the crop of the image
    is drawn again until it shows the class too. DAFormer's code draws at most 11 crops and requires
    more than 1500 of their 512x512 pixels, half of 3000.

    Attributes:
      counts: pixels of each class in each example, int [N,K].
      temperature: above 0. Near 0 only the rarest class is drawn; for a large temperature all
        classes are drawn equally often.
      min_pixels: an example shows a class if its label file has at least this many pixels of it; a
        crop shows it if it has more than half as many.
      crops: the largest number of crops that are drawn; the last one is used whatever it shows.
    """

    counts: np.ndarray
    temperature: float
    min_pixels: int = 1
    crops: int = 1

    def __post_init__(self) -> None:
        if not (self.counts >= self.min_pixels).any():
            raise DataError(f"no example has {self.min_pixels} pixels of any class")
        if self.temperature <= 0:
            raise DataError(f"temperature must be above 0, got {self.temperature}")
        if self.crops < 1:
            raise DataError(f"at least one crop must be drawn, got {self.crops}")

    def probabilities(self) -> np.ndarray:
        """Returns P(c), float64 [K]; 0 for classes that no example shows."""
        present = (self.counts >= self.min_pixels).any(axis=0)
        logits = np.where(present, (1 - frequencies(self.counts)) / self.temperature, -np.inf)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Source crops offered for long-tail class pasting (Zheng et al., TUFL).

    Each candidate depends only on (seed, position in the stream): a class is drawn uniformly, then
    an example that shows it, and then a crop of that example among those that show the class. The
    original code draws images and crops until the class is visible, at most 1000 times; here the
    visible crops are counted, and a single draw is enough. The device decides which candidates are
    pasted (`rtda_jax.augment`).

    Attributes:
      counts: pixels of each class in each example, int [N,K].
      slots: candidates per example, S.
      probability: the probability that an example is offered any candidates.
      classes: the classes to draw from; if empty, all classes that some example shows.
      min_pixels: an example shows a class if it has at least this many pixels of it.
    """

    counts: np.ndarray
    slots: int
    probability: float
    classes: tuple[int, ...] = ()
    min_pixels: int = 1

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise DataError(f"candidates need at least one slot, got {self.slots}")
        if not 0 <= self.probability <= 1:
            raise DataError(f"candidates need a probability, got {self.probability:g}")
        check_classes(self.classes, num_classes=self.counts.shape[1])
        if not len(self.drawn):
            raise DataError(
                f"no example has {self.min_pixels} pixels of any class that could be pasted"
            )

    @property
    def drawn(self) -> np.ndarray:
        """The classes to draw from: the requested ones that some example shows."""
        present = np.flatnonzero((self.counts >= self.min_pixels).any(axis=0))
        return np.intersect1d(present, self.classes) if self.classes else present


def check_classes(classes: Sequence[int], *, num_classes: int) -> None:
    """Refuses classes to draw from that are unknown.

    Raises:
      DataError: names them.
    """
    if wrong := [c for c in classes if not 0 <= c < num_classes]:
        raise DataError(f"classes {wrong} are not among the {num_classes} classes")
