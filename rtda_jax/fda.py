"""Fourier domain adaptation: the source image with the target's low-frequency amplitude."""

import jax
import jax.numpy as jnp


def half_width(height: int, width: int, *, beta: float) -> int:
    """Half width b = floor(min(H, W) * beta) of the exchanged window, in frequency steps."""
    if not 0.0 <= beta <= 0.5:
        raise ValueError(f"FDA beta must lie in [0, 0.5], got {beta}")
    return int(min(height, width) * beta)


def transfer(source: jax.Array, target: jax.Array, *, beta: float) -> jax.Array:
    """Source with the target's amplitude in the central (2b+1)^2 window of the spectrum.

    The phase stays the source's and nothing is clipped. Apply it before any mean is subtracted:
    a channel mean that changes sign flips the phase of the constant term (Yang & Soatto, CVPR
    2020, eq. 3; window as in the NumPy code of the authors, b = floor(min(H,W) beta)).

    Args:
      source: float [B,H,W,3] in [0,255].
      target: float, the shape of source.
      beta: window size as a fraction of the shorter side, in [0, 0.5]; 0 exchanges the mean only.

    Returns:
      float32 of the same shape; values may leave [0,255].
    """
    if source.shape != target.shape:
        raise ValueError(f"FDA needs equal shapes, got {source.shape} and {target.shape}")
    height, width = source.shape[1:3]
    b = half_width(height, width, beta=beta)
    rows = jnp.abs(jnp.fft.fftfreq(height, 1.0 / height)) <= b + 0.5
    columns = jnp.fft.rfftfreq(width, 1.0 / width) <= b + 0.5
    window = (rows[:, None] & columns[None, :])[None, :, :, None]
    axes = (1, 2)
    spectrum = jnp.fft.rfft2(source.astype(jnp.float32), axes=axes)
    amplitude = jnp.abs(spectrum)
    wanted = jnp.abs(jnp.fft.rfft2(target.astype(jnp.float32), axes=axes))
    # angle(0) = 0: a vanished source coefficient takes the target's amplitude with phase zero.
    phase = jnp.where(amplitude > 0, spectrum / jnp.where(amplitude > 0, amplitude, 1.0), 1.0)
    mixed = jnp.where(window, wanted * phase, spectrum)
    return jnp.fft.irfft2(mixed, s=(height, width), axes=axes)
