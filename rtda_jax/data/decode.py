"""From encoded bytes to uint8 arrays, inside a tf.data graph or eagerly."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtda_jax.data import labels
from rtda_jax.data.dataset import Dataset, Encoded
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE, OUTSIDE
from rtda_jax.data.lazy_tf import tensorflow

Tensor = Any


def image(data: Tensor) -> Tensor:
    """Encoded PNG, JPEG or WebP -> uint8 [H,W,3]."""
    tf = tensorflow()
    pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
    pixels.set_shape([None, None, 3])
    return pixels


def raw_label(data: Tensor, step: Tensor, *, labelling: str) -> Tensor:
    """Encoded label -> raw ids, uint8 [H,W]; OUTSIDE where no id is meant."""
    tf = tensorflow()
    return _RAW[labels.encoding(labelling)](tf, data, step, labelling)


def _index(tf: Any, data: Tensor, step: Tensor, labelling: str) -> Tensor:
    pixels = tf.io.decode_image(data, channels=1, expand_animations=False)
    pixels.set_shape([None, None, 1])
    return pixels[..., 0] // tf.cast(step, tf.uint8)


def _first16(tf: Any, data: Tensor, step: Tensor, labelling: str) -> Tensor:
    wide = tf.io.decode_png(data, dtype=tf.uint16)
    wide.set_shape([None, None, None])
    first = tf.cast(wide[..., 0], tf.int32)
    return tf.cast(tf.minimum(first, OUTSIDE), tf.uint8)


def _rgb(tf: Any, data: Tensor, step: Tensor, labelling: str) -> Tensor:
    palette = np.array(labels.LABELLINGS[labelling].colours) @ (65536, 256, 1)
    order = np.argsort(palette)
    known = tf.constant(palette[order], tf.int32)
    code = tf.tensordot(tf.cast(image(data), tf.int32), tf.constant([65536, 256, 1]), 1)
    flat = tf.reshape(code, [-1])
    at = tf.minimum(tf.searchsorted(known, flat), len(palette) - 1)
    raw = tf.where(
        tf.gather(known, at) == flat, tf.gather(tf.constant(order, tf.int32), at), OUTSIDE
    )
    return tf.cast(tf.reshape(raw, tf.shape(code)), tf.uint8)


_RAW = {"index": _index, "first16": _first16, "rgb": _rgb}


def mapped(raw: Tensor, lut: np.ndarray) -> Tensor:
    """Raw ids -> classes by table, uint8 [H,W]."""
    tf = tensorflow()
    return tf.gather(tf.constant(lut), tf.cast(raw, tf.int32))


def resized(pixels: Tensor, size: Tensor) -> Tensor:
    """uint8 [H,W,3] -> uint8 [h,w,3], bilinear with antialiasing; untouched at its own size."""
    tf = tensorflow()

    def resize() -> Tensor:
        out = tf.image.resize(pixels, size, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(out), 0, 255), tf.uint8)

    return _unless_same(tf, pixels, size, resize)


def resized_label(label: Tensor, size: Tensor) -> Tensor:
    """uint8 [H,W] -> uint8 [h,w], nearest at pixel centres; untouched at its own size."""
    tf = tensorflow()

    def resize() -> Tensor:
        rows, columns = (
            tf.cast(
                (2 * tf.range(size[axis], dtype=tf.int64) + 1)
                * tf.shape(label, out_type=tf.int64)[axis]
                // (2 * tf.cast(size[axis], tf.int64)),
                tf.int32,
            )
            for axis in (0, 1)
        )
        return tf.gather(tf.gather(label, rows), columns, axis=1)

    return _unless_same(tf, label, size, resize)


def _unless_same(tf: Any, pixels: Tensor, size: Tensor, resize: Any) -> Tensor:
    size = tf.convert_to_tensor(size, tf.int32)
    return tf.cond(tf.reduce_all(tf.shape(pixels)[:2] == size), lambda: pixels, resize)


def examine(dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Example i decoded: uint8 image [H,W,3] and classes [H,W] or None.

    Raises:
      DataError: naming the file, whatever is wrong with it.
    """
    pixels, raw = examine_known(dataset, i)
    if raw is None or dataset.labelling is None:
        return pixels, None
    label = dataset.classes.lut(dataset.labelling)[raw]
    return pixels, np.where(label == OUTSIDE, np.uint8(IGNORE), label)


def examine_known(dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Like `examine_raw`, and every id is in the labelling's table, or IGNORE in lenient files."""
    pixels, raw = examine_raw(dataset, i)
    if raw is None or dataset.labelling is None:
        return pixels, None
    ids = labels.known_ids(dataset.labelling, dataset.classes)
    known = np.zeros(256, bool)
    known[list(ids)] = True
    outside = ~known[raw]
    if not outside.any():
        return pixels, raw
    if dataset.keys[i] in dataset.lenient:
        return pixels, np.where(outside, np.uint8(IGNORE), raw)
    kind = labels.encoding(dataset.labelling)
    bad = f"ids {_ranges(tuple(np.unique(raw[outside]).tolist()))}" if kind == "index" else kind
    raise DataError(
        f"{dataset.reader.where(i)[1]}: {int(outside.sum())} label pixels ({bad}) outside the "
        f"table of {dataset.labelling!r} ({_ranges(ids)})"
    )


def examine_raw(dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Example i decoded, its label as raw ids; DataError naming the file that can not be."""
    encoded: Encoded = dataset.read(i)
    image_at, label_at = dataset.reader.where(i)
    pixels = _eagerly(image_at, lambda: image(encoded.image))
    if encoded.label is None or dataset.labelling is None:
        return pixels, None
    labelling = dataset.labelling
    return pixels, _eagerly(
        label_at, lambda: raw_label(encoded.label, encoded.step, labelling=labelling)
    )


def _eagerly(where: str, decode: Any) -> np.ndarray:
    tf = tensorflow()
    try:
        return decode().numpy()
    except tf.errors.OpError as error:
        reason = str(error.message).split("}} ")[-1].split(" [Op")[0].strip()
        raise DataError(f"{where}: truncated or damaged ({reason})") from None


def _ranges(ids: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(f"{a}..{b}" if a != b else str(a) for a, b in runs)
