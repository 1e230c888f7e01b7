"""Fourier domain adaptation: the source image with the target's low-frequency amplitude."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import lookup


def half_width(height: int, width: int, *, beta: float) -> int:
    """Half width b = floor(min(H, W) * beta) of the exchanged window, in frequency steps."""
    if not 0.0 <= beta <= 0.5:
        raise ValueError(f"FDA beta must lie in [0, 0.5], got {beta}")
    return int(min(height, width) * beta)


def _within(height: int, width: int, low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
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


# Which frequencies [H,W] take the target's amplitude.
WINDOWS: dict[str, Callable[[int, int, float], np.ndarray]] = {
    "square": _square,  # (2b+1)^2, the authors' NumPy code and S1's
    "rectangle": _rectangle,  # beta H by beta W, the formula of the paper and of S1
    "corners": _corners,  # -b..b-1, the authors' PyTorch code; nothing for b = 0
}


def share(height: int, width: int, *, beta: float, window: str) -> np.ndarray:
    """How much of each amplitude is the target's, float32 [H,W//2+1] of 0, 1/2, 1.

    A real image has one amplitude for a frequency and its opposite: where a window holds only one
    of the two, the real part of the inverse transform has their mean.

    Raises:
      ValueError: an unknown window, or beta outside [0, 0.5].
    """
    inside = lookup(WINDOWS, window, "fda_window")(height, width, beta)
    opposite = np.roll(inside[::-1, ::-1], 1, axis=(0, 1))
    return ((inside.astype(np.float32) + opposite) / 2)[:, : width // 2 + 1]


def transfer(
    source: jax.Array, target: jax.Array, *, beta: float, window: str = "square"
) -> jax.Array:
    """Source with the target's amplitude in a window of low frequencies.

    The phase stays the source's and nothing is clipped. Apply it before any mean is subtracted:
    a channel mean that changes sign flips the phase of the constant term (Yang & Soatto, CVPR
    2020, eq. 3; the default window as in the NumPy code of the authors, b = floor(min(H,W) beta)).

    Args:
      source: float [B,H,W,3] in [0,255].
      target: float, the shape of source.
      beta: window size as a fraction of the shorter side, in [0, 0.5]; 0 exchanges the mean only.
      window: a key of `WINDOWS`.

    Returns:
      float32 of the same shape; values may leave [0,255].
    """
    if source.shape != target.shape:
        raise ValueError(f"FDA needs equal shapes, got {source.shape} and {target.shape}")
    height, width = source.shape[1:3]
    exchanged = share(height, width, beta=beta, window=window)[None, :, :, None]
    axes = (1, 2)
    spectrum = jnp.fft.rfft2(source.astype(jnp.float32), axes=axes)
    amplitude = jnp.abs(spectrum)
    wanted = jnp.abs(jnp.fft.rfft2(target.astype(jnp.float32), axes=axes))
    # angle(0) = 0: a vanished source coefficient takes the target's amplitude with phase zero.
    phase = jnp.where(amplitude > 0, spectrum / jnp.where(amplitude > 0, amplitude, 1.0), 1.0)
    between = exchanged * wanted + (1 - exchanged) * amplitude
    mixed = jnp.where(exchanged > 0, between * phase, spectrum)
    return jnp.fft.irfft2(mixed, s=(height, width), axes=axes)
