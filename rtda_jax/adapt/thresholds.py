"""Adaptive class thresholds: how sure a prediction must be, learnt for each class as one trains.

Mei et al., IAST, 2020, in the form of TUFL (S4). The thresholds theta [K] are state: they belong
to the checkpoint, so that a resumed run goes on with the same ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

INSTEAD_OF_ONE = 0.999  # above which no prediction would be sure
# Confidences become whole numbers that sort like them: 27 bits for the value, 5 for the class.
_VALUE_BITS, _CLASS_BITS = 27, 5
_LOWEST = 2.0**-15


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """How thresholds adapt; S4's defaults.

    Attributes:
      initial: theta of every class at the first step, in (0, 1).
      alpha: share of the old theta that is kept, in [0, 1].
      beta: share of a class's pixels that pass, before `d` lowers it, in (0, 1].
      d: how much fewer pass while theta is low: the share is beta theta^d.
      decay: above 0, what is kept grows with the step t as 1 - alpha exp(-decay t).
    """

    initial: float = 0.8
    alpha: float = 0.9
    beta: float = 0.8
    d: float = 8.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("initial", 0 < self.initial < 1, "in (0, 1)"),
            ("alpha", 0 <= self.alpha <= 1, "in [0, 1]"),
            ("beta", 0 < self.beta <= 1, "in (0, 1]"),
            ("d", self.d >= 0, "at least 0"),
            ("decay", self.decay >= 0, "at least 0"),
        ):
            if not fits:
                raise ValueError(f"threshold.{name} must be {wanted}, got {getattr(self, name):g}")

    def start(self, num_classes: int) -> jax.Array:
        """Theta before the first step, float32 [K]."""
        if num_classes > 2**_CLASS_BITS - 1:
            raise ValueError(f"adaptive thresholds serve at most 31 classes, got {num_classes}")
        return jnp.full(num_classes, self.initial, jnp.float32)


def adapt(
    theta: jax.Array,
    confidence: jax.Array,
    labels: jax.Array,
    *,
    how: Thresholds,
    step: jax.Array | int = 0,
    axis_name: str | None = None,
) -> jax.Array:
    """Theta after one look at a batch of predictions.

    The confidences of a class's pixels, theta itself among them, are sorted from high to low; the
    value at place floor(n beta theta^d) is what theta moves to. A class that is not predicted
    stays as it is.

    Args:
      theta: float [K].
      confidence: float [B,H,W], in (2^-15, 1], the highest probability of each pixel.
      labels: int [B,H,W], its class.
      how: the constants.
      step: counted from 0; of the decay.
      axis_name: the device axis; then the batch is that of all devices, and so theta one for all
        (the original keeps one on each device).

    Returns:
      float32 [K], below 1: what reaches 1 becomes 0.999.
    """
    classes = theta.shape[0]
    number = labels.ravel().astype(jnp.uint32)
    keys = _encode(confidence.ravel(), number)
    if axis_name is not None:
        keys = lax.all_gather(keys, axis_name, tiled=True)
    own = _encode(theta, jnp.arange(classes, dtype=jnp.uint32))
    keys = jnp.sort(jnp.concatenate([keys, own]))
    bounds = jnp.arange(classes + 1, dtype=jnp.uint32) << _VALUE_BITS
    starts = jnp.searchsorted(keys, bounds)
    count = jnp.diff(starts)
    place = jnp.floor(count.astype(jnp.float32) * how.beta * theta**how.d).astype(starts.dtype)
    reached = _decode(jnp.take(keys, starts[:-1] + jnp.minimum(place, count - 1)))
    kept = how.alpha if how.decay == 0 else 1 - how.alpha * jnp.exp(-how.decay * jnp.float32(step))
    theta = theta + (1 - kept) * (reached - theta)
    return jnp.where(theta >= 1, INSTEAD_OF_ONE, theta)


def _encode(confidence: jax.Array, number: jax.Array) -> jax.Array:
    """Whole numbers, uint32, that grow with the class and fall with the confidence; exact."""
    bits = lax.bitcast_convert_type(
        jnp.clip(confidence.astype(jnp.float32), _LOWEST, 1.0), jnp.uint32
    )
    return (number << _VALUE_BITS) + (_bits_of_one() - bits)


def _decode(keys: jax.Array) -> jax.Array:
    bits = _bits_of_one() - (keys & jnp.uint32(2**_VALUE_BITS - 1))
    return lax.bitcast_convert_type(bits, jnp.float32)


def _bits_of_one() -> jax.Array:
    return lax.bitcast_convert_type(jnp.float32(1), jnp.uint32)
