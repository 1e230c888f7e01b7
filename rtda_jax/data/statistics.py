"""Class frequencies of a data set, streamed, and the weights made of them."""

import pathlib

import numpy as np

from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE
from rtda_jax.data.stream import eval_stream


def class_counts(dataset: Dataset, *, threads: int | None = None) -> np.ndarray:
    """Pixels of each class in each example, int64 [N,K+1]; the last column is the ignored ones.

    Only one label a thread is in memory at a time.
    """
    if dataset.labelling is None:
        raise DataError(f"{dataset.name}: has no labels to count")
    classes = len(dataset.classes)
    counts = np.zeros((len(dataset), classes + 1), np.int64)
    for example in eval_stream(dataset, threads=threads):
        histogram = np.bincount(example["label"].ravel(), minlength=IGNORE + 1)
        counts[example["index"], :classes] = histogram[:classes]
        counts[example["index"], classes] = histogram[IGNORE]
    return counts


def counted(dataset: Dataset, path: pathlib.Path, *, threads: int | None = None) -> np.ndarray:
    """`class_counts` without the ignored column, int64 [N,K], kept in the file `path` (.npz).

    A file about other examples or classes, or a damaged one, is counted anew.
    """
    about = {
        "name": np.array(dataset.name),
        "keys": np.array(dataset.keys),
        "classes": np.array(dataset.classes.names),
    }
    held = read_npz(path)
    same = all(name in held and np.array_equal(held[name], v) for name, v in about.items())
    if same and "counts" in held and held["counts"].shape == (len(dataset), len(dataset.classes)):
        return held["counts"]
    counts = class_counts(dataset, threads=threads)[:, :-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, counts=counts, **about)
    partial.replace(path)
    return counts


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, whole by their checksums; none of a missing or damaged one."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except Exception:  # a damaged archive can raise anything
        return {}


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Share of each class in the valid pixels, float64 [K], of pixel counts [K] or [N,K]."""
    total = counts.reshape(-1, counts.shape[-1]).sum(axis=0).astype(np.float64)
    return total / max(total.sum(), 1.0)


def enet_weights(frequency: np.ndarray, *, c: float = 1.02) -> np.ndarray:
    """1 / ln(c + f) of each class: ENet's weights (Paszke et al. 2016), as S0 uses them."""
    return 1.0 / np.log(c + np.asarray(frequency, np.float64))
