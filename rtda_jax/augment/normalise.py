"""Input normalisations: which channel order, mean and scale a set of weights was trained with."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """order: indices of the RGB channels; mean and std per channel in that order, scale [0,255]."""

    order: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


RGB, BGR = (0, 1, 2), (2, 1, 0)

NORMALISATIONS = {
    # torchvision, timm, STDC (S1) and S4.
    "imagenet": Normalisation(
        RGB,
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
    # TensorFlow's models for small devices, EfficientNet-Lite among them.
    "tensorflow": Normalisation(RGB, (127.0,) * 3, (128.0,) * 3),
    # Caffe's ImageNet models, AdaptSegNet and S0.
    "caffe_bgr": Normalisation(BGR, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0)),
    # S2: the mean of Cityscapes in RGB order, subtracted from BGR (sic).
    "cityscapes_bgr": Normalisation(BGR, (73.158, 82.909, 72.392), (1.0, 1.0, 1.0)),
    # CoinCheung's BiSeNet today.
    "cityscapes": Normalisation(
        RGB,
        (0.3257 * 255, 0.3690 * 255, 0.3223 * 255),
        (0.2112 * 255, 0.2148 * 255, 0.2115 * 255),
    ),
}


def _look_up(name: str) -> Normalisation:
    if name not in NORMALISATIONS:
        raise ValueError(f"unknown normalisation {name!r}; known: {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[name]


def normalise(images: jax.Array, *, name: str) -> jax.Array:
    """Network input [B,H,W,3] float32 from RGB images [B,H,W,3] in [0,255].

    name is a key of NORMALISATIONS. Raises ValueError for an unknown name.
    """
    how = _look_up(name)
    images = images.astype(jnp.float32)
    if how.order == BGR:
        images = lax.rev(images, (3,))
    mean = jnp.array(how.mean, jnp.float32).reshape(1, 1, 1, 3)
    scale = jnp.array([1 / s for s in how.std], jnp.float32).reshape(1, 1, 1, 3)
    return (images - mean) * scale


def check_normalisation(configured: str, *, required: str | None, path: str = "weights") -> None:
    """Raise ValueError if the weights at path require another normalisation than configured.

    required None (a file that does not say) passes.
    """
    _look_up(configured)
    if required is not None and configured != required:
        raise ValueError(
            f"{path} was trained with normalisation {required!r}, the configuration says "
            f"{configured!r}"
        )
