"""Fourier domain adaptation: source images with the target's low-frequency amplitude.

Yang & Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020, eq. 3.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.augment import image_keys
from rtda_jax.errors import lookup, require


def half_width(height: int, width: int, *, beta: float) -> int:
    """Returns the half width b = floor(min(H, W) * beta) of the exchanged window.

    Its unit is the lowest frequency, one period per image.

    Raises:
      ConfigError: beta lies outside [0, 0.5].
    """
    require(0.0 <= beta <= 0.5, f"FDA beta must lie in [0, 0.5], got {beta}")
    return int(min(height, width) * beta)


def _within(height: int, width: int, low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
    """Returns which frequencies [H,W] lie between two pairs (row, column), both included."""
    rows, columns = (np.fft.fftfreq(side, 1.0 / side).round() for side in (height, width))
    inside = [(f >= a) & (f <= b) for f, a, b in zip((rows, columns), low, high, strict=True)]
    return inside[0][:, None] & inside[1][None, :]


def _square(height: int, width: int, beta: float) -> np.ndarray:
    b = half_width(height, width, beta=beta)
    return _within(height, width, (-b, -b), (b, b))


def _rectangle(height: int, width: int, beta: float) -> np.ndarray:
    high = half_width(height, height, beta=beta), half_width(width, width, beta=beta)
    return _within(height, width, (-high[0], -high[1]), high)


def _corners(height: int, width: int, beta: float) -> np.ndarray:
    b = half_width(height, width, beta=beta)
    return _within(height, width, (-b, -b), (b - 1, b - 1))


# Which frequencies take the target's amplitude: functions (height, width, beta) -> bool [H,W].
WINDOWS: dict[str, Callable[[int, int, float], np.ndarray]] = {
    "square": _square,  # (2b + 1)^2, the authors' NumPy code and Nikiforos's MBT
    "rectangle": _rectangle,  # beta H by beta W, the formula of both papers
    "corners": _corners,  # -b..b-1 each way, the authors' PyTorch code; nothing for b = 0
}


def target_share(height: int, width: int, *, beta: float, window: str) -> np.ndarray:
    """Returns how much of each amplitude is the target's, float32 [H,W//2+1] of 0, 1/2 and 1.

    An inverse transform to real images reads only the columns 0..W/2. Of a column that is its own
    opposite (0, and W/2 if W is even) it uses the Hermitian part. If a window contains a frequency
    of such a column but not its opposite, the resulting amplitude is therefore the mean of source
    and target. This is how the irfft of the authors' PyTorch treats the window "corners"; the other
    windows are symmetric.

    Args:
      height: the images' height, H.
      width: the images' width, W.
      beta: the size of the window, as in `transfer`.
      window: a key of `WINDOWS`.

    Raises:
      ConfigError: the window is unknown, or beta lies outside [0, 0.5].
    """
    inside = lookup(WINDOWS, window, "fda_window")(height, width, beta)
    exchanged = inside[:, : width // 2 + 1].astype(np.float32)
    own_opposite = [0] if width % 2 else [0, width // 2]
    opposite = np.roll(exchanged[::-1, own_opposite], 1, axis=0)
    exchanged[:, own_opposite] = (exchanged[:, own_opposite] + opposite) / 2
    return exchanged


def transfer(
    source: jax.Array, target: jax.Array, *, beta: float, window: str = "square"
) -> jax.Array:
    """Returns the source with the target's amplitude in a window of low frequencies.

    The phase of the source is kept, and nothing is clipped. Call this before a mean is subtracted,
    because a channel mean that changes its sign flips the phase of the constant term.

    Args:
      source: float [B,H,W,3] in [0,255].
      target: float, of the shape of source.
      beta: size of the window as a fraction of the image's sides, in [0, 0.5]; 0 exchanges the
        mean only.
      window: a key of `WINDOWS`.

    Returns:
      float32 of the same shape; values may leave [0,255].
    """
    size = _common_size(source, target)
    return exchange(source, target, target_share(*size, beta=beta, window=window))


def transfer_drawn(
    source: jax.Array,
    target: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    betas: Sequence[float],
    window: str = "square",
) -> jax.Array:
    """Returns `transfer` with a beta that each image draws, all with equal probability.

    Args:
      source: float [B,H,W,3] in [0,255].
      target: float, of the shape of source.
      key: decides the draws, together with the index.
      index: int32 [B], the number of each image.
      betas: sizes of windows, as in `transfer`.
      window: a key of `WINDOWS`.
    """
    size = _common_size(source, target)
    shares = [target_share(*size, beta=beta, window=window) for beta in betas]
    drawn = jax.vmap(lambda own: jax.random.randint(own, (), 0, len(betas)))(image_keys(key, index))
    return exchange(source, target, jnp.stack(shares)[drawn])


def exchange(source: jax.Array, target: jax.Array, share: jax.typing.ArrayLike) -> jax.Array:
    """Returns the source with a share of the target's amplitude at each frequency.

    Args:
      source: float [B,H,W,3] in [0,255].
      target: float, of the shape of source.
      share: how much of each amplitude is the target's, [H,W//2+1] for all images or
        [B,H,W//2+1].

    Returns:
      float32 of the shape of source.

    Raises:
      ValueError: source and target differ in shape, or are no batches of images.
    """
    size, axes = _common_size(source, target), (1, 2)
    exchanged = jnp.asarray(share).reshape(-1, size[0], size[1] // 2 + 1, 1)
    spectrum = jnp.fft.rfft2(source.astype(jnp.float32), axes=axes)
    amplitude = jnp.abs(spectrum)
    wanted = jnp.abs(jnp.fft.rfft2(target.astype(jnp.float32), axes=axes))
    # A coefficient of 0 has no phase; it takes the target's amplitude with phase zero.
    phase = jnp.where(amplitude > 0, spectrum / jnp.where(amplitude > 0, amplitude, 1.0), 1.0)
    between = exchanged * wanted + (1 - exchanged) * amplitude
    mixed = jnp.where(exchanged > 0, between * phase, spectrum)
    return jnp.fft.irfft2(mixed, s=size, axes=axes)


def _common_size(source: jax.Array, target: jax.Array) -> tuple[int, int]:
    """Returns (H, W); raises ValueError for different shapes, or no batches of images."""
    if source.shape != target.shape or source.ndim != 4 or source.shape[-1] != 3:
        both = f"{source.shape} and {target.shape}"
        raise ValueError(f"FDA needs two batches of the same shape [B,H,W,3], got {both}")
    return source.shape[1], source.shape[2]
