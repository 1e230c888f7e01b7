"""Resizing, cropping and mirroring of an image and its label together, inside a tf.data graph.

Whatever runs TensorFlow takes `tf` from here: it works on the CPU and never sees the GPU, so that
JAX has the GPU's memory to itself. No module outside of `rtda_jax.data` needs it to be imported.
"""

from typing import Any

import tensorflow as tf

from rtda_jax.data.class_sets import IGNORE

tf.config.set_visible_devices([], "GPU")

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
    at_least: Size | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Resizes, crops and mirrors image and label by the same random numbers.

    Args:
      image, label: uint8 [H,W,3], and classes uint8 [h,w] (which may have another size) or None.
      key: stateless seed [2].
      size, crop, flip, scale: see `stream.train_stream`.
      at_least: the zoomed image is never smaller than this; smaller random zooms are replaced by
        the smallest one that suffices.

    Returns:
      Image and label of the crop's size. Where the zoomed image is smaller than the crop it is
      padded below and to the right, with black and with IGNORE.
    """
    numbers = tf.random.stateless_uniform([4], seed=key, alg="philox")
    shape = tf.shape(image)[:2] if size is None else tf.constant(size)
    if at_least is not None and _always_covers(size, scale, at_least):
        at_least = None
    if scale != (1.0, 1.0) or at_least is not None:
        factor = scale[0] + (scale[1] - scale[0]) * numbers[0]
        before = tf.cast(shape, tf.float32)
        if at_least is not None:
            factor = tf.maximum(factor, tf.reduce_max(tf.cast(at_least, tf.float32) / before))
        shape = tf.maximum(tf.cast(tf.round(before * factor), tf.int32), at_least or 1)
    image = resized(image, shape)
    label = None if label is None else resized_label(label, shape)
    if crop is not None:
        room = tf.maximum(shape - crop, 0)
        start = tf.cast(tf.floor(numbers[1:3] * tf.cast(room + 1, tf.float32)), tf.int32)
        start = tf.minimum(start, room)
        image = tf.ensure_shape(_crop(image, start, shape, crop, fill=0), [*crop, 3])
        if label is not None:
            label = tf.ensure_shape(_crop(label, start, shape, crop, fill=IGNORE), crop)
    elif size is not None and scale == (1.0, 1.0):
        image = tf.ensure_shape(image, [*size, 3])
    if flip:
        mirrored = numbers[3] < 0.5
        image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
        if label is not None:
            label = tf.cond(mirrored, lambda: label[:, ::-1], lambda: label)
    return image, label


def resized(pixels: Tensor, size: Tensor) -> Tensor:
    """Resizes uint8 [H,W,3] to uint8 [h,w,3], bilinearly with antialiasing.

    Pixels that have this size already stay as they are.
    """

    def resize() -> Tensor:
        out = tf.image.resize(pixels, size, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(out), 0, 255), tf.uint8)

    return _unless_same(pixels, size, resize)


def resized_label(label: Tensor, size: Tensor) -> Tensor:
    """Resizes uint8 [H,W] to uint8 [h,w], nearest at pixel centres."""

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

    return _unless_same(label, size, resize)


def _always_covers(size: Size | None, scale: tuple[float, float], crop: Size) -> bool:
    """Returns whether even the smallest zoom of images of one size is as large as the crop."""
    return size is not None and all(
        round(s * scale[0]) >= c for s, c in zip(size, crop, strict=True)
    )


def _crop(pixels: Tensor, start: Tensor, shape: Tensor, crop: Size, *, fill: int) -> Tensor:
    """Cuts a crop, padded below and to the right where the pixels end before it."""
    short = tf.maximum(crop - shape, 0)
    inside = pixels[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]]
    padding = [[0, short[0]], [0, short[1]], *[[0, 0]] * (len(pixels.shape) - 2)]
    fits = tf.reduce_all(short == 0)  # padding by nothing would copy all the same
    return tf.cond(fits, lambda: inside, lambda: tf.pad(inside, padding, constant_values=fill))


def _unless_same(pixels: Tensor, size: Tensor, resize: Any) -> Tensor:
    size = tf.convert_to_tensor(size, tf.int32)
    return tf.cond(tf.reduce_all(tf.shape(pixels)[:2] == size), lambda: pixels, resize)
