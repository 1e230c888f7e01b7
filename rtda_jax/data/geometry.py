"""Random geometry of an image and its label together, inside a tf.data graph."""

from typing import Any

from rtda_jax.data import decode
from rtda_jax.data.labels import IGNORE
from rtda_jax.data.lazy_tf import tensorflow

Tensor = Any
Size = tuple[int, int]


def move(
    image: Tensor,
    label: Tensor | None,
    key: Tensor,
    *,
    size: Size | None,
    crop: Size | None,
    flip: bool,
    scale: tuple[float, float],
) -> tuple[Tensor, Tensor | None]:
    """Resize, crop and mirror image and label by one and the same random numbers.

    Args:
      image, label: uint8 [H,W,3] and classes [H,W] or None.
      key: stateless seed [2].
      size, crop, flip, scale: see stream.train_stream.
    """
    tf = tensorflow()
    numbers = tf.random.stateless_uniform([4], seed=key, alg="philox")
    shape = tf.shape(image)[:2] if size is None else tf.constant(size)
    if scale != (1.0, 1.0):
        factor = scale[0] + (scale[1] - scale[0]) * numbers[0]
        shape = tf.maximum(tf.cast(tf.round(tf.cast(shape, tf.float32) * factor), tf.int32), 1)
    image = decode.resized(image, shape)
    label = None if label is None else decode.resized_label(label, shape)
    if crop is not None:
        room = tf.maximum(shape - crop, 0)
        start = tf.cast(tf.floor(numbers[1:3] * tf.cast(room + 1, tf.float32)), tf.int32)
        start = tf.minimum(start, room)
        short = tf.maximum(crop - shape, 0)
        image = image[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]]
        fits = tf.reduce_all(short == 0)  # padding by nothing would still copy
        picture = image
        image = tf.cond(
            fits,
            lambda: picture,
            lambda: tf.pad(picture, [[0, short[0]], [0, short[1]], [0, 0]]),
        )
        image = tf.ensure_shape(image, [*crop, 3])
        if label is not None:
            label = label[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]]
            classes = label
            padding = [[0, short[0]], [0, short[1]]]
            label = tf.cond(
                fits, lambda: classes, lambda: tf.pad(classes, padding, constant_values=IGNORE)
            )
            label = tf.ensure_shape(label, crop)
    elif size is not None and scale == (1.0, 1.0):
        image = tf.ensure_shape(image, [*size, 3])
    if flip:
        mirrored = numbers[3] < 0.5
        image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
        if label is not None:
            label = tf.cond(mirrored, lambda: label[:, ::-1], lambda: label)
    return image, label
