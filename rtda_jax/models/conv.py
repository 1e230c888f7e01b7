"""Two-dimensional convolution, NHWC, with PyTorch's explicit symmetric padding."""

import jax
from jax import lax


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolution of x [B,H,W,C] with kernel [kh,kw,C/groups,O]."""
    (ph, pw) = _pair(padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        _pair(stride),
        ((ph, ph), (pw, pw)),
        rhs_dilation=_pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
