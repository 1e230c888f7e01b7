"""Evaluation by sliding windows, at several scales and mirrored, as S4 measures itself."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rtda_jax.ops.resize import upsample

Size = tuple[int, int]


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows along one side begin: every `stride`, the last one flush with the end."""
    if window > length:
        raise ValueError(f"evaluation window {window} is larger than the image side {length}")
    count = 1 + math.ceil((length - window) / stride)
    return [min(i * stride, length - window) for i in range(count)]


def probabilities(
    predict: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    *,
    size: Size,
    window: Size,
    stride: Size,
    scales: Sequence[float] = (1.0,),
    mirror: bool = False,
    align: str = "corners",
) -> jax.Array:
    """Sums of softmax over windows, scales and mirrored copies, float32 [1,H,W,K] at `size`.

    At each scale the image is resized, padded with zeros around where it is smaller than the
    window, and read in overlapping windows whose probabilities add up; the sum is resized to
    `size`. Both resizes are bilinear. Where windows overlap a scale counts more than once, as in
    the original.

    Args:
      predict: normalised images [1,h,w,3] of the window's size -> probabilities [1,h,w,K].
      image: normalised, [1,H,W,3].
      size: of the result, that of the labels.
      window: (height, width).
      stride: between windows.
      scales: of the image's sides, above 0.
      mirror: add what is predicted for the mirrored window, mirrored back.
      align: of both resizes; the original's has corners on corners.
    """
    total = None
    for scale in scales:
        height, width = (max(1, int(side * scale)) for side in image.shape[1:3])
        shape = height, width
        padded, (top, left) = _shrink_or_grow(image, shape=shape, window=window, align=align)
        summed = None
        for y in starts(padded.shape[1], window[0], stride[0]):
            for x in starts(padded.shape[2], window[1], stride[1]):
                chip = _cut(padded, y, x, window=window)
                score = predict(chip)
                if mirror:
                    score = score + predict(chip[:, :, ::-1])[:, :, ::-1]
                if summed is None:
                    summed = jnp.zeros((*padded.shape[:3], score.shape[-1]), jnp.float32)
                summed = _add(summed, score, y, x)
        assert summed is not None
        back = _back(summed, top, left, shape=shape, size=size, align=align)
        total = back if total is None else total + back
    if total is None:
        raise ValueError("evaluation needs at least one scale")
    return total


def _shrink_or_grow(
    image: jax.Array, *, shape: Size, window: Size, align: str
) -> tuple[jax.Array, Size]:
    """The image at a shape with zeros around it up to the window, and where it lies in them."""
    short = [max(w - s, 0) for w, s in zip(window, shape, strict=True)]
    before = (short[0] // 2, short[1] // 2)
    return _padded(image, shape=shape, pads=(tuple(short), before), align=align), before


@functools.partial(jax.jit, static_argnames=("shape", "pads", "align"))
def _padded(image: jax.Array, *, shape: Size, pads: tuple[Size, Size], align: str) -> jax.Array:
    resized = upsample(image.astype(jnp.float32), size=shape, align=align)
    sides = [(b, s - b) for s, b in zip(*pads, strict=True)]
    return jnp.pad(resized, [(0, 0), *sides, (0, 0)])


@functools.partial(jax.jit, static_argnames="window")
def _cut(image: jax.Array, y: int, x: int, *, window: Size) -> jax.Array:
    return lax.dynamic_slice(image, (0, y, x, 0), (1, *window, image.shape[-1]))


@functools.partial(jax.jit, donate_argnums=0)
def _add(summed: jax.Array, score: jax.Array, y: int, x: int) -> jax.Array:
    before = lax.dynamic_slice(summed, (0, y, x, 0), score.shape)
    return lax.dynamic_update_slice(summed, before + score, (0, y, x, 0))


@functools.partial(jax.jit, static_argnames=("shape", "size", "align"))
def _back(
    summed: jax.Array, top: int, left: int, *, shape: Size, size: Size, align: str
) -> jax.Array:
    inside = lax.dynamic_slice(summed, (0, top, left, 0), (1, *shape, summed.shape[-1]))
    return upsample(inside, size=size, align=align)


def check(
    *,
    window: Sequence[int] | None,
    stride: Sequence[int] | None,
    scales: Sequence[float],
) -> None:
    """Raise ValueError for a protocol that can not be run."""
    if window is None or stride is None:
        raise ValueError("evaluation mode 'slide' needs a window and a stride")
    if min(*window, *stride) < 1 or any(s > w for s, w in zip(stride, window, strict=True)):
        raise ValueError(
            f"evaluation windows {tuple(window)} at strides {tuple(stride)} leave pixels unseen"
        )
    if not len(scales) or not all(np.isfinite(s) and s > 0 for s in scales):
        raise ValueError(f"evaluation scales must be above 0, got {tuple(scales)}")
