"""Compiles and times each piece of a training step by itself."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.gpu import ours
from benchmarks.gpu.plan import Sizes, sizes_of
from benchmarks.gpu.record import Record
from rtda_jax import fda, losses
from rtda_jax.augment.normalise import normalise
from rtda_jax.models import create_discriminator
from rtda_jax.ops.activations import argmax
from rtda_jax.ops.conv import conv2d
from rtda_jax.ops.norm import BatchNorm
from rtda_jax.ops.pool import max_pool
from rtda_jax.ops.resize import upsample

COUNT = 10


class Piece(NamedTuple):
    """A function of float arrays of these shapes and types.

    bytes and flops are the least that it has to move and to compute.
    """

    function: Callable[..., Any]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    bytes: float = 0.0
    flops: float = 0.0


def pulled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function and its gradients for every input, as training runs it."""

    def both(*inputs: jax.Array) -> Any:
        y, pull = jax.vjp(function, *inputs)
        return y, pull(y)

    return both


def _module(module: nn.Module, shape: jax.ShapeDtypeStruct, **options: Any) -> Any:
    """Returns a module as a function of its input, with its variables as constants."""
    zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **options), shape)
    variables = jax.tree.map(lambda s: zeros(s.shape) + 0.01, shapes)

    def apply(x: jax.Array) -> Any:
        mutable = ["batch_stats"] if "batch_stats" in variables else False
        y = module.apply(variables, x, **options, mutable=mutable)
        return y[0] if mutable else y

    return apply


def pieces(sizes: Sizes) -> dict[str, Piece]:
    """Returns all pieces by name, at the sizes of one domain's batch in bisenet_resnet18."""
    b, (h, w), k = sizes.batch, sizes.crop, 19
    f32, bf16 = jnp.float32, jnp.bfloat16
    like = jax.ShapeDtypeStruct
    image = like((b, h, w, 3), f32)
    full, eighth = like((b, h, w, k), f32), like((b, h // 8, w // 8, k), f32)
    labels = like((b, h, w), jnp.uint8)

    def size_of(*arrays: jax.ShapeDtypeStruct) -> float:
        return float(sum(a.size * a.dtype.itemsize for a in arrays))

    def entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.cross_entropy(logits, labels).mean()

    resize = functools.partial(upsample, size=(h, w))
    table = {
        "fda": Piece(
            functools.partial(fda.transfer, beta=0.01), (image, image), 3 * size_of(image)
        ),
        "normalise": Piece(
            functools.partial(normalise, name="imagenet"), (image,), 2 * size_of(image)
        ),
        "resize of logits x8, forward": Piece(resize, (eighth,), size_of(eighth, full)),
        "resize of logits x8, with gradient": Piece(
            pulled(resize), (eighth,), 2 * size_of(eighth, full)
        ),
        "cross entropy, with gradient": Piece(
            lambda x, y: jax.value_and_grad(entropy)(x, y), (full, labels), 2 * size_of(full)
        ),
        "softmax of logits": Piece(jax.nn.softmax, (full,), 2 * size_of(full)),
        "argmax of logits": Piece(argmax, (full,), size_of(full, labels)),
    }
    for name in sizes.infer_dtypes:
        dtype = {"bfloat16": bf16, "float32": f32}[name]
        stem = like((b, h // 2, w // 2, 64), dtype)
        quarter = like((b, h // 4, w // 4, 64), dtype)
        table[f"batch norm 64 at 1/4, with gradient, {name}"] = Piece(
            pulled(_module(BatchNorm(dtype=dtype), quarter, train=True)),
            (quarter,),
            # Statistics and result, then both sums and the gradient.
            7 * size_of(quarter),
        )
        table[f"max pool at 1/2, with gradient, {name}"] = Piece(
            pulled(functools.partial(max_pool, window=3, stride=2, padding=1)),
            (stem,),
            3 * size_of(stem),
        )
        judge = create_discriminator("fcd", in_channels=k, dtype=dtype)
        table[f"discriminator, with gradient of its input, {name}"] = Piece(
            pulled(_module(judge, full)), (full,)
        )
        for label, x, kernel, stride, padding in (
            ("3x3, 64 at 1/4", quarter, (3, 3, 64, 64), 1, 1),
            ("3x3, 256 at 1/16", like((b, h // 16, w // 16, 256), dtype), (3, 3, 256, 256),
             1, 1),
            ("7x7 stride 2, 3 to 64", like((b, h, w, 3), dtype), (7, 7, 3, 64), 2, 3),
        ):  # fmt: skip
            weight = like(kernel, dtype)
            conv = functools.partial(conv2d, stride=stride, padding=padding)
            out = jax.eval_shape(conv, x, weight)
            flops = 2.0 * out.size * kernel[0] * kernel[1] * kernel[2]
            table[f"convolution {label}, forward, {name}"] = Piece(
                conv, (x, weight), size_of(x, out), flops
            )
            table[f"convolution {label}, with gradients, {name}"] = Piece(
                pulled(conv), (x, weight), 3 * size_of(x, out), 3 * flops
            )
    return table


def time_of(piece: Piece) -> dict[str, Any]:
    """Measures the mean seconds of a call, and the rates that follow."""
    keys = jax.random.split(jax.random.key(0), len(piece.inputs))

    def draw(key: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(like.dtype, jnp.integer):
            return jax.random.randint(key, like.shape, 0, 19).astype(like.dtype)
        return jax.random.normal(key, like.shape, like.dtype)

    inputs = [draw(key, like) for key, like in zip(keys, piece.inputs, strict=True)]
    function = jax.jit(piece.function)
    seconds = ours.queued(lambda: function(*inputs), count=COUNT)
    return {
        "ms": 1e3 * seconds,
        "bytes_per_second": piece.bytes / seconds,
        "flops_per_second": piece.flops / seconds,
    }


def run(spec: dict[str, Any], record: Record) -> None:
    """Times every piece."""
    record.run("about", ours.about)
    for name, piece in pieces(sizes_of(spec)).items():
        record.run(name, functools.partial(time_of, piece))
