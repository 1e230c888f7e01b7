"""Evaluation at the labels' own resolution: one confusion matrix over the whole set."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax import metrics
from rtda_jax.augment.normalise import normalise
from rtda_jax.ops import sliding
from rtda_jax.ops.argmax import argmax
from rtda_jax.ops.fold import fold
from rtda_jax.ops.resize import ALIGNMENTS, upsample


class Model(NamedTuple):
    """A trained network: the module, its variables and the input it reads."""

    module: nn.Module
    variables: Any
    normalisation: str


def evaluate(
    models: Sequence[Model],
    examples: Iterable[dict],
    *,
    num_classes: int,
    mode: str = "whole",
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    mirror: bool = False,
    align: str = "half_pixel",
    watch: Callable[[int, dict, np.ndarray], None] | None = None,
    observe: Callable[[jax.Array], None] | None = None,
) -> np.ndarray:
    """Confusion matrix int64 [K,K] of one network, or of the mean softmax of several.

    Args:
      models: one network, or several to fuse (FDA's multi-band transfer).
      examples: dicts of `image` uint8 [h,w,3] and `label` uint8 [H,W].
      num_classes: K.
      mode: "whole" reads an image at once, "slide" in overlapping windows.
      window: of "slide", (height, width).
      stride: of "slide".
      scales: of "slide", at which an image is read.
      mirror: of "slide", read every window mirrored as well.
      align: of resizes, "half_pixel" or "corners" (PyTorch's align_corners).
      watch: called with (index, example, prediction uint8 [H,W]) for each image.
      observe: called with the softmax [1,h,w,K] of each image, at the input's resolution.
    """
    predict = predictor(
        models,
        mode=mode,
        window=window,
        stride=stride,
        scales=scales,
        mirror=mirror,
        align=align,
        observe=observe,
    )
    count = jax.jit(functools.partial(metrics.confusion_matrix, num_classes=num_classes))
    total = np.zeros((num_classes, num_classes), np.int64)
    for index, example in enumerate(examples):
        label = example["label"]
        prediction = predict(example["image"], size=label.shape)
        total += np.asarray(count(label, prediction), np.int64)
        if watch is not None:
            watch(index, example, np.asarray(prediction))
    return total


def predictor(
    models: Sequence[Model],
    *,
    mode: str,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    mirror: bool = False,
    align: str = "half_pixel",
    observe: Callable[[jax.Array], None] | None = None,
) -> Callable[..., jax.Array]:
    """A function (image uint8 [h,w,3], *, size) -> class uint8 [H,W] at `size`.

    A single network's logits are upsampled before the argmax; of several, the mean softmax is
    (FDA and S1 do so). "slide" adds up softmax over windows, scales and mirrored copies
    (`sliding.probabilities`, S4). Batch normalisations are folded into the convolutions, once,
    here. `observe` gets the softmax [1,h,w,K] of each image.
    """
    check(mode=mode, window=window, stride=stride, scales=scales, mirror=mirror, align=align)
    models = [Model(*fold(m.module, m.variables), m.normalisation) for m in models]

    def scores(variables: Sequence[Any], image: jax.Array) -> jax.Array:
        pixels = image[None].astype(jnp.float32)
        probabilities = []
        for model, v in zip(models, variables, strict=True):
            images = normalise(pixels, name=model.normalisation)
            outputs: Any = model.module.apply(v, images, train=False)
            logits = outputs["logits"].astype(jnp.float32)
            if len(models) == 1:
                return logits
            probabilities.append(jax.nn.softmax(logits, axis=-1))
        return jnp.mean(jnp.stack(probabilities), axis=0)

    @functools.partial(jax.jit, static_argnames="size")
    def decide(score: jax.Array, *, size: tuple[int, int]) -> jax.Array:
        full = score if score.shape[1:3] == size else upsample(score, size=size, align=align)
        return argmax(full)[0]

    @functools.partial(jax.jit, static_argnames="size")
    def whole(variables: Sequence[Any], image: jax.Array, *, size: tuple[int, int]) -> jax.Array:
        return decide(scores(variables, image), size=size)

    variables = [model.variables for model in models]
    if mode == "whole" and observe is None:
        return lambda image, *, size: whole(variables, image, size=tuple(size))
    if mode == "whole" and observe is not None:
        read, softmax, seen = jax.jit(scores), jax.jit(jax.nn.softmax), observe

        def observed(image: np.ndarray, *, size: tuple[int, int]) -> jax.Array:
            score = read(variables, image)
            seen(score if len(models) > 1 else softmax(score))
            return decide(score, size=tuple(size))

        return observed

    assert window is not None
    assert stride is not None
    read_windows = functools.partial(
        sliding.probabilities,
        window=window,
        stride=stride,
        scales=scales,
        mirror=mirror,
        align=align,
    )

    def slide(image: np.ndarray, *, size: tuple[int, int]) -> jax.Array:
        pixels = jnp.asarray(image, jnp.float32)[None]
        summed = jnp.float32(0)
        for model in models:
            chip = functools.partial(_chip, model.module, model.variables)
            images = normalise(pixels, name=model.normalisation)
            summed = summed + read_windows(chip, images, size=size)
        if observe is not None:
            observe(summed / summed.sum(-1, keepdims=True))
        return decide(summed, size=size)

    return slide


@functools.partial(jax.jit, static_argnums=0)
def _chip(module: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    outputs: Any = module.apply(variables, images, train=False)
    return jax.nn.softmax(outputs["logits"].astype(jnp.float32), axis=-1)


def check(
    *,
    mode: str,
    window: Sequence[int] | None,
    stride: Sequence[int] | None,
    scales: Sequence[float],
    mirror: bool,
    align: str,
) -> None:
    """Raise ValueError for a protocol that can not be run."""
    if mode not in ("whole", "slide"):
        raise ValueError(f"unknown evaluation mode {mode!r}; known: whole, slide")
    if align not in ALIGNMENTS:
        raise ValueError(f"unknown eval.align {align!r}; known: {', '.join(ALIGNMENTS)}")
    if mode == "slide":
        sliding.check(window=window, stride=stride, scales=scales)
    elif mirror or tuple(scales) != (1.0,):
        raise ValueError("eval.scales and eval.mirror are read by eval.mode='slide' only")


def report(confusion: np.ndarray, *, names: Sequence[str], rows: Sequence[int]) -> dict[str, Any]:
    """What results.json says of a confusion matrix; null where a class is absent.

    Args:
      confusion: [K,K] over the head's classes.
      names: of the reported classes.
      rows: where they stand among the head's classes; what the network takes for one of the
        others still counts against them.
    """
    iou = metrics.iou_per_class(confusion)[list(rows)]
    return {
        "miou": _or_none(metrics.mean_iou(confusion, rows)),
        "pixel_accuracy": _or_none(metrics.pixel_accuracy(confusion, rows)),
        "iou": {name: _or_none(v) for name, v in zip(names, iou, strict=True)},
        "pixels": int(np.asarray(confusion)[list(rows)].sum()),
    }


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Per-class IoU, mIoU and pixel accuracy of several evaluations, side by side."""
    columns = list(results)
    classes = list(dict.fromkeys(name for c in columns for name in results[c]["iou"]))
    left = max(len(name) for name in [*classes, "pixel accuracy"])
    widths = [max(len(column), 6) for column in columns]

    def row(name: str, values: Sequence[float | None]) -> str:
        cells = (
            f"{'n/a' if value is None else f'{100 * value:.1f}':>{w}}"
            for value, w in zip(values, widths, strict=True)
        )
        return f"{name:<{left}}  " + "  ".join(cells)

    header = f"{'IoU, %':<{left}}  " + "  ".join(
        f"{column:>{w}}" for column, w in zip(columns, widths, strict=True)
    )
    rule = "-" * len(header)
    body = [row(name, [results[c]["iou"].get(name) for c in columns]) for name in classes]
    means = row("mIoU", [results[c]["miou"] for c in columns])
    accuracy = row("pixel accuracy", [results[c]["pixel_accuracy"] for c in columns])
    return "\n".join([header, rule, *body, rule, means, accuracy])
