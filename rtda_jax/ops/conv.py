"""Two-dimensional convolution, NHWC, with PyTorch's explicit symmetric padding.

On a CPU, XLA runs most plain convolutions nearly as fast as a matrix product, but some of them, and
most gradients of kernels, much more slowly. Rules that come from measurements compute these in an
equivalent form. All other platforms and dtypes use the plain convolution and its gradients.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # (above, below), (left, right)
CONVOLUTION = "convolution"  # names what `conv2d` returns, for policies of jax.checkpoint
NHWC = ("NHWC", "HWIO", "NHWC")
FEW_CHANNELS = 32  # of the output; with fewer the convolution cannot fill its vectors
MOST_ADDED = 4  # images whose products are added in one pass; more of them compile for longer
PATCH_LIMIT = 2**22  # elements; XLA would make larger patch matrices early and keep them for long


class Geometry(NamedTuple):
    """How a kernel of size (kh, kw) moves over an input."""

    size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int

    def output(self, height: int, width: int) -> Pair:
        """Returns the output height and width."""
        spans = [
            (n + sum(p) - (k - 1) * d - 1) // s + 1
            for n, k, s, p, d in zip((height, width), *self[:4], strict=True)
        ]
        return spans[0], spans[1]

    def taps(self) -> list[Pair]:
        """Returns the kernel positions in row-major order."""
        return list(product(range(self.size[0]), range(self.size[1])))


def pair(value: int | Pair) -> Pair:
    """Returns a number for the rows and one for the columns."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _padding(value: int | Pair | Padding) -> Padding:
    sides = pair(value) if isinstance(value, int) else value
    top, left = (pair(side) for side in sides)
    return top, left


def same_padding(height: int, width: int, *, size: int, stride: int) -> Padding:
    """Returns TensorFlow's SAME padding, under which an output side is ceil(input / stride).

    If the padding of a side is odd, the larger part comes after the image, unlike PyTorch's
    symmetric padding, so that with stride 2 the two read different pixels.
    """
    totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in (height, width)]
    rows, columns = ((total // 2, total - total // 2) for total in totals)
    return rows, columns


def _total(terms: list[jax.Array]) -> jax.Array:
    return sum(terms[1:], start=terms[0])


def plain_conv2d(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.stride,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=NHWC,
        feature_group_count=geometry.groups,
    )


def _windows(x: jax.Array, g: Geometry) -> list[jax.Array]:
    """Returns for every tap the values [B,h,w,C] of padded x that it reads."""
    (oh, ow), (sh, sw), (dh, dw) = g.output(*x.shape[1:3]), g.stride, g.dilation
    x = jnp.pad(x, ((0, 0), *g.padding, (0, 0)))
    return [
        x[:, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
        for i, j in g.taps()
    ]


def _patches(x: jax.Array, g: Geometry) -> jax.Array:
    """Returns the patches [B*h*w, kh*kw*C], stacked twice: XLA would not fuse 16 slices."""
    windows, kw = _windows(x, g), g.size[1]
    rows = [jnp.stack(windows[i : i + kw], 3) for i in range(0, len(windows), kw)]
    return jnp.stack(rows, 3).reshape(-1, len(windows) * x.shape[3])


def _over_pixels(
    a: jax.Array, b: jax.Array, *, a_shape: tuple[int, ...], b_shape: tuple[int, ...]
) -> jax.Array:
    """Computes a^T b over the leading axes, as [*a_shape, *b_shape].

    The narrower operand comes first, which is up to twice as fast. Only a reshape before the
    transpose prevents XLA from undoing this.
    """
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    over = (((0,), (0,)), ((), ()))
    if a.shape[1] <= b.shape[1]:
        return lax.dot_general(a, b, over).reshape(*a_shape, *b_shape)
    transposed = lax.dot_general(b, a, over).reshape(*b_shape, *a_shape)
    n = len(b_shape)
    return transposed.transpose(*range(n, transposed.ndim), *range(n))


def _sum_pixels(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums a * b, both [B,h,w,C], over all pixels, as [1,C].

    XLA's own sum over leading axes runs without vectors, at a third of this speed: the products of
    a few images are added up element by element, and what is left is summed by a matrix product.
    """
    images, channels = a.shape[0], a.shape[-1]
    parts = max(n for n in range(1, MOST_ADDED + 1) if images % n == 0)
    pairs = zip(jnp.split(a, parts), jnp.split(b, parts), strict=True)
    rows = _total([x * y for x, y in pairs]).reshape(-1, channels)
    return jnp.ones((1, rows.shape[0]), rows.dtype) @ rows


def _spread(
    dy: jax.Array,
    g: Geometry,
    shape: tuple[int, ...],
    weigh: Callable[[jax.Array, Pair], jax.Array],
) -> jax.Array:
    """Sums weigh(dy, tap) over the taps, each at the input pixels that the tap reads.

    The pixels of one phase of the stride are read by the same taps, so that shifts of dy suffice;
    the phases are interleaved at the end. This needs no scatter and no array stuffed with zeros.
    """
    channels = shape[3]
    (oh, ow), (sh, sw), (dh, dw) = dy.shape[1:3], g.stride, g.dilation
    rh, rw = ((g.size[0] - 1) * dh) // sh, ((g.size[1] - 1) * dw) // sw
    dy = jnp.pad(dy, ((0, 0), (rh, rh), (rw, rw), (0, 0)))
    hh, ww = oh + rh, ow + rw
    lines = []
    for row in range(sh):
        phases = []
        for col in range(sw):
            total = jnp.zeros((shape[0], hh, ww, channels), dy.dtype)
            for i, j in g.taps():
                if (i * dh) % sh == row and (j * dw) % sw == col:
                    a, b = rh - i * dh // sh, rw - j * dw // sw
                    total = total + weigh(dy[:, a : a + hh, b : b + ww], (i, j))
            phases.append(total)
        lines.append(jnp.stack(phases, axis=3))
    return _crop(jnp.stack(lines, axis=2).reshape(-1, hh * sh, ww * sw, channels), g, shape)


def _crop(x: jax.Array, g: Geometry, shape: tuple[int, ...]) -> jax.Array:
    """Cuts the unpadded input out of x, which starts with the padding; missing pixels are zero."""
    zero = jnp.zeros((), x.dtype)
    edges = [
        (-low, n + low - have, 0)
        for (low, _), n, have in zip(g.padding, shape[1:3], x.shape[1:3], strict=True)
    ]
    return lax.pad(x, zero, ((0, 0, 0), *edges, (0, 0, 0)))


def _depthwise(g: Geometry, channels: int, features: int) -> bool:
    return g.groups == channels == features and channels > 1


def _pointwise(g: Geometry) -> bool:
    return g.size == (1, 1) and g.padding == ((0, 0), (0, 0)) and g.groups == 1


def _narrow_output(g: Geometry, channels: int, features: int) -> bool:
    # A 3x3 from 1024 channels to 19 classes: apply the taps on the side of the classes.
    return g.groups == 1 and g.stride == (1, 1) and features <= FEW_CHANNELS <= channels // 4


def _overhangs(g: Geometry, height: int, width: int) -> bool:
    # If a kernel is larger than the map, XLA falls back to loops that are 80 times slower.
    return g.groups == 1 and (g.size[0] > height or g.size[1] > width)


def _whole_strides(g: Geometry, height: int, width: int) -> bool:
    # Folding the phases into channels computes a border of (h + 1)(w + 1) - h w outputs in vain.
    fits = all(k % s == 0 for k, s in zip(g.size, g.stride, strict=True))
    grown = (height + g.size[0] // g.stride[0] - 1) * (width + g.size[1] // g.stride[1] - 1)
    simple = g.groups == 1 and g.dilation == (1, 1) and max(g.stride) > 1
    return simple and fits and grown <= 1.15 * height * width


def _cpu_forward(x: jax.Array, kernel: jax.Array, *, g: Geometry) -> jax.Array:
    (_, height, width, channels), features = x.shape, kernel.shape[3]
    if _depthwise(g, channels, features):
        weights = [kernel[i, j, 0][None, None, None, :] for i, j in g.taps()]
        return _total([w * k for w, k in zip(_windows(x, g), weights, strict=True)])
    if _pointwise(g):
        return _windows(x, g)[0] @ kernel[0, 0]
    if _overhangs(g, height, width):
        pixels = _patches(x, g) @ kernel.reshape(-1, features)
        return pixels.reshape(-1, *g.output(height, width), features)
    if _narrow_output(g, channels, features):
        taps = len(g.taps())
        flat = kernel.transpose(2, 0, 1, 3).reshape(channels, taps * features)
        # Take windows of the product instead of multiplying the windows.
        wide = lax.optimization_barrier(x.reshape(-1, channels) @ flat)
        windows = _windows(wide.reshape(-1, height, width, taps * features), g)
        return _total([w[..., t * features : (t + 1) * features] for t, w in enumerate(windows)])
    return plain_conv2d(x, kernel, g)


def _cpu_input_gradient(
    dy: jax.Array, kernel: jax.Array, *, g: Geometry, shape: tuple[int, ...]
) -> jax.Array:
    channels, (_, oh, ow, features) = shape[3], dy.shape
    if _depthwise(g, channels, features):
        return _spread(dy, g, shape, lambda d, t: d * kernel[t][0][None, None, None, :])
    if _pointwise(g):
        return _spread(dy @ kernel[0, 0].T, g, shape, lambda d, _: d)
    if _overhangs(g, oh, ow):
        flat = kernel.reshape(-1, features).T
        wide = lax.optimization_barrier(dy.reshape(-1, features) @ flat).reshape(*dy.shape[:3], -1)

        def part(d: jax.Array, tap: Pair) -> jax.Array:
            start = (tap[0] * g.size[1] + tap[1]) * channels
            return d[..., start : start + channels]

        return _spread(wide, g, shape, part)
    if _whole_strides(g, oh, ow):
        (sh, sw), kh, kw = g.stride, g.size[0] // g.stride[0], g.size[1] // g.stride[1]
        folded = kernel.reshape(kh, sh, kw, sw, channels, features)[::-1, :, ::-1]
        folded = folded.transpose(0, 2, 5, 1, 3, 4).reshape(kh, kw, features, sh * sw * channels)
        full = Geometry((kh, kw), (1, 1), _padding((kh - 1, kw - 1)), (1, 1), 1)
        z = lax.optimization_barrier(plain_conv2d(dy, folded, full))
        hh, ww = z.shape[1:3]
        z = z.reshape(-1, hh, ww, sh, sw, channels).transpose(0, 1, 3, 2, 4, 5)
        return _crop(z.reshape(-1, hh * sh, ww * sw, channels), g, shape)
    like = jax.ShapeDtypeStruct(shape, dy.dtype)
    return jax.linear_transpose(lambda v: plain_conv2d(v, kernel, g), like)(dy)[0]


def _cpu_kernel_gradient(
    x: jax.Array, dy: jax.Array, *, g: Geometry, shape: tuple[int, ...]
) -> jax.Array:
    channels, features = x.shape[3], dy.shape[3]
    if _depthwise(g, channels, features):
        return jnp.concatenate([_sum_pixels(w, dy) for w in _windows(x, g)]).reshape(shape)
    if _pointwise(g):
        return _over_pixels(_windows(x, g)[0], dy, a_shape=shape[:3], b_shape=shape[3:])
    if _narrow_output(g, channels, features):
        # Seen from the input, tap (i, j) of dy is tap (kh-1-i, kw-1-j) of the flipped kernel.
        spans = [(k - 1) * d for k, d in zip(g.size, g.dilation, strict=True)]
        reach = [(s - low, s - high) for s, (low, high) in zip(spans, g.padding, strict=True)]
        if min(*reach[0], *reach[1]) >= 0:
            back = g._replace(padding=(reach[0], reach[1]))
            taps = (*g.size, features)
            dw = _over_pixels(x, _patches(dy, back), a_shape=(channels,), b_shape=taps)
            return dw.transpose(1, 2, 0, 3)[::-1, ::-1]
    # XLA's own form is two to five times slower on large maps, and faster on a few pixels.
    if g.groups == 1 and (max(g.stride) > 1 or dy.size // features >= channels // 2):

        def over_patches(x: jax.Array, dy: jax.Array) -> jax.Array:
            return _over_pixels(_patches(x, g), dy, a_shape=shape[:3], b_shape=shape[3:])

        if dy.size // features * channels * len(g.taps()) <= PATCH_LIMIT:
            return over_patches(x, dy)

        def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return total + over_patches(pair[0][None], pair[1][None]), None

        return lax.scan(add, jnp.zeros(shape, x.dtype), (x, dy))[0]
    like = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda k: plain_conv2d(x, k, g), like)(dy)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: jax.Array, kernel: jax.Array, g: Geometry) -> jax.Array:
    plain = partial(plain_conv2d, geometry=g)
    return lax.platform_dependent(x, kernel, cpu=partial(_cpu_forward, g=g), default=plain)


def _forward(
    x: jax.Array, kernel: jax.Array, g: Geometry
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv2d(x, kernel, g), (x, kernel)


def _backward(
    g: Geometry, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, ...]:
    x, kernel = residuals

    def plain(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vjp(partial(plain_conv2d, geometry=g), x, kernel)[1](dy)

    def cpu(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        dx = _cpu_input_gradient(dy, kernel, g=g, shape=x.shape)
        return dx, _cpu_kernel_gradient(x, dy, g=g, shape=kernel.shape)

    return lax.platform_dependent(x, kernel, dy, cpu=cpu, default=plain)


_conv2d.defvjp(_forward, _backward)
# A network has many layers of equal shapes and is traced several times; each shape is traced once.
_conv2d_once = jax.jit(_conv2d, static_argnums=2, inline=True)


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | Pair = 1,
    padding: int | Pair | Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolves x [B,H,W,C] with kernel [kh,kw,C/groups,O], as PyTorch's conv2d.

    It is differentiable; in float32, only in reverse mode. Raises ValueError if the shapes
    disagree.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2] * groups:
        raise ValueError(
            f"conv2d: x {x.shape} does not fit kernel {kernel.shape} with groups={groups}; "
            "expected [B,H,W,C] and [kh,kw,C/groups,O]"
        )
    size = (kernel.shape[0], kernel.shape[1])
    g = Geometry(size, pair(stride), _padding(padding), pair(dilation), groups)
    if min(g.output(*x.shape[1:3])) < 1:
        raise ValueError(f"conv2d: kernel {kernel.shape} is larger than padded x {x.shape}")
    own = x.dtype == kernel.dtype == jnp.float32
    return checkpoint_name(
        _conv2d_once(x, kernel, g) if own else plain_conv2d(x, kernel, g), CONVOLUTION
    )
