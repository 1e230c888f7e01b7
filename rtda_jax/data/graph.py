"""Reading examples inside a tf.data graph, and the way out of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.cache import Cache
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE, OUTSIDE
from rtda_jax.data.lazy_tf import tensorflow
from rtda_jax.data.pseudo import PseudoLabels

Tensor = Any
Size = tuple[int, int]


def decoded(
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


def pseudo_label(pseudo: PseudoLabels, index: Tensor) -> Tensor:
    """Classes uint8 [h,w], 255 ignored, at the size the labels were made at."""
    tf = tensorflow()
    data = tf.numpy_function(lambda i: pseudo.read(int(i)), [index], tf.string, stateful=False)
    label = tf.io.decode_png(data, channels=1)
    label.set_shape([None, None, 1])
    known = (label < pseudo.classes) | (label == IGNORE)
    check = tf.debugging.Assert(tf.reduce_all(known), ["pseudo-label of no class"])
    with tf.control_dependencies([check]):
        return tf.identity(label[..., 0])


def iterate(stream: Any, diagnose: Any, *, start: int, threads: int) -> Iterator[dict[str, Any]]:
    """Batches of a stream as NumPy arrays; `diagnose(step)` raises for what broke one."""
    tf = tensorflow()
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    return _arrays(iter(stream.with_options(options)), diagnose, start)


def _arrays(iterator: Any, diagnose: Any, step: int) -> Iterator[dict[str, Any]]:
    """Batches as NumPy views; a failure of the graph becomes the DataError of its file."""
    tf = tensorflow()
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            diagnose(step)
            raise DataError(f"the data of step {step} can not be read: {error.message}") from None
        yield {name: np.asarray(memoryview(value)) for name, value in batch.items()}
        step += 1
