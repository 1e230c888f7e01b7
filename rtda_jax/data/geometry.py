"""Resizing, cropping and mirroring of an image and its label together, inside a tf.data graph.

A *move* is one draw of the geometric augmentation: the zoom, the crop and whether it is mirrored.

Modules that use TensorFlow import `tf` from here. It is restricted to the CPU, so that all of the
GPU's memory belongs to JAX. No module outside `rtda_jax.data` needs TensorFlow.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from rtda_jax.data.class_sets import IGNORE

tf.config.set_visible_devices([], "GPU")

Tensor = Any
Size = tuple[int, int]
Margins = tuple[int, int, int, int]  # top, bottom, left, right
Window = tuple[slice, slice]

WHOLE: Window = (slice(None), slice(None))


@dataclasses.dataclass(frozen=True)
class Moves:
    """The range of moves to draw from.

    Attributes:
      size, crop, resize: see `stream.Frame`.
      flip, scale: see `stream.MoveOptions`.
      at_least: the zoomed image is never smaller than this; smaller random zooms are replaced by
        the smallest one that suffices.
    """

    size: Size | None = None
    crop: Size | None = None
    flip: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    at_least: Size | None = None
    resize: str = "bilinear"


class Move(NamedTuple):
    """A move that was drawn; it applies to an image and to everything that belongs to it.

    Attributes:
      shape: the size of the zoomed image, int32 [2].
      start: row and column of the crop's first pixel in it, int32 [2]; None without a crop.
      crop: (h, w), or None for the whole image.
      mirrored: whether it is mirrored, bool; None if it never is.
      resize: how the image is zoomed, a key of `pictures.FILTERS`.
    """

    shape: Tensor
    start: Tensor | None
    crop: Size | None
    mirrored: Tensor | None
    resize: str = "bilinear"


def draw(moves: Moves, key: Tensor, shape: Tensor) -> Move:
    """Draws a move.

    Args:
      moves: the range to draw from.
      key: stateless seed [2].
      shape: the size of the image, int32 [2]; only used without `moves.size`.
    """
    crop, scale, at_least = moves.crop, moves.scale, moves.at_least
    numbers = tf.random.stateless_uniform([4], seed=key, alg="philox")
    shape = shape if moves.size is None else tf.constant(moves.size)
    if at_least is not None and _always_covers(moves.size, scale, at_least):
        at_least = None
    if scale != (1.0, 1.0) or at_least is not None:
        factor = scale[0] + (scale[1] - scale[0]) * numbers[0]
        before = tf.cast(shape, tf.float32)
        if at_least is not None:
            factor = tf.maximum(factor, tf.reduce_max(tf.cast(at_least, tf.float32) / before))
        shape = tf.maximum(tf.cast(tf.round(before * factor), tf.int32), at_least or 1)
    start = None
    if crop is not None:
        room = tf.maximum(shape - crop, 0)
        start = tf.cast(tf.floor(numbers[1:3] * tf.cast(room + 1, tf.float32)), tf.int32)
        start = tf.minimum(start, room)
    mirrored = numbers[3] < 0.5 if moves.flip else None
    return Move(shape, start, crop, mirrored, moves.resize)


def draw_showing(
    moves: Moves,
    key: Tensor,
    shape: Tensor,
    *,
    label: Tensor,
    shown_class: Tensor,
    crops: int,
    pixels: int,
) -> Move:
    """Draws moves until the crop shows a class, and returns the last one.

    The first move is that of `draw` for `key`, and the n-th after it is that for `key` folded with
    n. Only the label is examined.

    Args:
      moves, key, shape: see `draw`.
      label: classes uint8 [H,W], of any size.
      shown_class: the class, int64.
      crops: the largest number of crops that are drawn; the last one is used without a check.
      pixels: a crop shows the class with more than half as many of its pixels.
    """

    def drawn(number: Tensor) -> Move:
        again = tf.random.experimental.stateless_fold_in(key, number)
        return draw(moves, tf.where(number == 0, key, again), shape)

    def look(number: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        seen = tf.equal(move_label(label, drawn(number)), tf.cast(shown_class, tf.uint8))
        shown = 2 * tf.math.count_nonzero(seen) > pixels
        return tf.where(shown, number, number + 1), shown

    number, _ = tf.while_loop(
        lambda number, shown: (number < crops - 1) & ~shown,
        look,
        (tf.constant(0, tf.int64), tf.constant(False)),
    )
    return drawn(number)


def move_image(image: Tensor, move: Move) -> Tensor:
    """Returns an image, uint8 [H,W,3], zoomed, cropped and mirrored.

    If the zoomed image is smaller than the crop, it is padded below and to the right with black.
    """
    rows, columns = _window(move)
    out = _finished(resized(image, move.shape, resize=move.resize)[rows, columns], move, fill=0)
    return tf.ensure_shape(out, [*_static_size(move), 3])


def move_label(label: Tensor, move: Move) -> Tensor:
    """Returns the label of an image, uint8 [H,W] of any size, moved in the same way as the image.

    Padding is IGNORE.
    """
    out = _finished(resized_label(label, move.shape, _window(move)), move, fill=IGNORE)
    return tf.ensure_shape(out, _static_size(move))


def border(size: Size, margins: Margins) -> np.ndarray:
    """Returns uint8 [H,W]: 255 in the margins (top, bottom, left, right), 0 elsewhere."""
    top, bottom, left, right = margins
    inside = np.full(size, 255, np.uint8)
    inside[top : size[0] - bottom, left : size[1] - right] = 0
    return inside


def resized(pixels: Tensor, size: Tensor, *, resize: str = "bilinear") -> Tensor:
    """Resizes uint8 [H,W,3] to uint8 [h,w,3] with antialiasing, by a key of `RESIZES`.

    Pixels that already have this size are not changed.
    """
    return tf.cond(_same(pixels, size), lambda: pixels, lambda: RESIZES[resize](pixels, size))


def _bilinear(pixels: Tensor, size: Tensor) -> Tensor:
    out = tf.image.resize(pixels, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(out), 0, 255), tf.uint8)


def _bicubic(pixels: Tensor, size: Tensor) -> Tensor:
    """Resizes with Pillow, as in the authors' DeepLab recipes; TensorFlow rounds differently."""
    out = tf.numpy_function(
        lambda x, s: np.asarray(Image.fromarray(x).resize((s[1], s[0]), Image.Resampling.BICUBIC)),
        [pixels, size],
        tf.uint8,
        stateful=False,
    )
    return tf.ensure_shape(out, [None, None, 3])


# By the names of `pictures.FILTERS`: functions of uint8 [H,W,3] and the size (h, w).
RESIZES = {"bilinear": _bilinear, "bicubic": _bicubic}


def resized_label(label: Tensor, size: Tensor, window: Window = WHOLE) -> Tensor:
    """Resizes uint8 [H,W] to uint8 [h,w], nearest at pixel centres.

    Only the requested window of the result, given by slices of rows and columns, is computed.
    """

    def resize() -> Tensor:
        rows, columns = (
            tf.cast(
                (2 * tf.range(size[axis], dtype=tf.int64) + 1)
                * tf.shape(label, out_type=tf.int64)[axis]
                // (2 * tf.cast(size[axis], tf.int64)),
                tf.int32,
            )[window[axis]]
            for axis in (0, 1)
        )
        return tf.gather(tf.gather(label, rows), columns, axis=1)

    return tf.cond(_same(label, size), lambda: label[window], resize)


def _always_covers(size: Size | None, scale: tuple[float, float], crop: Size) -> bool:
    """Returns whether even the smallest zoom of images of one size is as large as the crop."""
    return size is not None and all(
        round(s * scale[0]) >= c for s, c in zip(size, crop, strict=True)
    )


def _window(move: Move) -> Window:
    """Returns the rows and columns of the zoomed image that the crop shows."""
    if move.start is None or move.crop is None:
        return WHOLE
    end = move.start + move.crop
    return slice(move.start[0], end[0]), slice(move.start[1], end[1])


def _finished(pixels: Tensor, move: Move, *, fill: int) -> Tensor:
    """Pads the window of a crop below and to the right where the image ends, and mirrors it."""
    if move.crop is not None:
        short = tf.maximum(move.crop - move.shape, 0)
        padding = [[0, short[0]], [0, short[1]], *[[0, 0]] * (len(pixels.shape) - 2)]
        fits = tf.reduce_all(short == 0)  # padding by nothing would still copy
        window = pixels
        pixels = tf.cond(
            fits, lambda: window, lambda: tf.pad(window, padding, constant_values=fill)
        )
    if move.mirrored is None:
        return pixels
    return tf.cond(move.mirrored, lambda: pixels[:, ::-1], lambda: pixels)


def _static_size(move: Move) -> tuple[int | None, int | None]:
    """Returns the size of a moved image, as far as it is known without the data."""
    known = tf.get_static_value(move.shape) if move.crop is None else move.crop
    return (None, None) if known is None else (int(known[0]), int(known[1]))


def _same(pixels: Tensor, size: Tensor) -> Tensor:
    return tf.reduce_all(tf.shape(pixels)[:2] == tf.convert_to_tensor(size, tf.int32))
