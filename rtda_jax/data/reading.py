"""One example of a data set as tensors, read and decoded inside a tf.data graph."""

from typing import Any

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.cache import Cache
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import IGNORE, OUTSIDE
from rtda_jax.data.lazy_tf import tensorflow

Tensor = Any
Size = tuple[int, int]


def example(
    dataset: Dataset, index: Tensor, *, size: Size | None, cache: Cache | None = None
) -> tuple[Tensor, Tensor | None]:
    """Image, resized if `size` is given, and label in classes at its own (or the cache's) size."""
    tf = tensorflow()
    if cache is not None:
        image, label = tf.numpy_function(
            lambda i: cache.get(int(i)), [index], [tf.uint8, tf.uint8], stateful=False
        )
        image.set_shape([None, None, 3])
        label.set_shape([None, None])
        return image, None if dataset.labelling is None else label

    def read(i: np.ndarray) -> tuple[bytes, bytes, np.uint8, np.bool_]:
        encoded = dataset.read(int(i))
        lenient = np.bool_(bool(dataset.lenient) and dataset.keys[int(i)] in dataset.lenient)
        return encoded.image, encoded.label or b"", np.uint8(encoded.step), lenient

    data, label_data, step, lenient = tf.numpy_function(
        read, [index], [tf.string, tf.string, tf.uint8, tf.bool], stateful=False
    )
    image = decode.image(data)
    if size is not None:
        image = decode.resized(image, size)
    if dataset.labelling is None:
        return image, None
    raw = decode.raw_label(label_data, step, labelling=dataset.labelling)
    label = decode.mapped(raw, dataset.classes.lut(dataset.labelling))
    outside = label == OUTSIDE
    check = tf.debugging.Assert(lenient | ~tf.reduce_any(outside), ["label outside its table"])
    with tf.control_dependencies([check]):
        return image, tf.cond(
            tf.reduce_any(outside),
            lambda: tf.where(outside, tf.constant(IGNORE, tf.uint8), label),
            lambda: label,
        )
