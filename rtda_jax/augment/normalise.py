"""Input normalisations: the channel order, mean and scale with which weights were trained."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from rtda_jax.errors import lookup, one_of, require


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """How images in [0,255] become the input of a network.

    Attributes:
      order: the channels, among red, green and blue, that the network reads as first, second and
        third.
      mean: subtracted from each channel, in that order.
      std: divides each channel, in that order.
    """

    order: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


AUTO = "auto"  # in a configuration: the normalisation of the pretrained weights

RGB, BGR = (0, 1, 2), (2, 1, 0)

NORMALISATIONS = {
    # torchvision, timm, STDC (and so Nikiforos's MBT) and TUFL.
    "imagenet": Normalisation(
        RGB,
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
    # TensorFlow's models for small devices, EfficientNet-Lite among them.
    "tensorflow": Normalisation(RGB, (127.0,) * 3, (128.0,) * 3),
    # Caffe's ImageNet models, AdaptSegNet and Brunstein's loss study.
    "caffe_bgr": Normalisation(BGR, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0)),
    # Bartoletti's code: the mean of Cityscapes in RGB order, subtracted from BGR (sic).
    "cityscapes_bgr": Normalisation(BGR, (73.158, 82.909, 72.392), (1.0, 1.0, 1.0)),
    # Today's code of CoinCheung's BiSeNet.
    "cityscapes": Normalisation(
        RGB,
        (0.3257 * 255, 0.3690 * 255, 0.3223 * 255),
        (0.2112 * 255, 0.2148 * 255, 0.2115 * 255),
    ),
}


def normalise(images: jax.Array, *, name: str) -> jax.Array:
    """Returns network input, float32 [B,H,W,3], of RGB images [B,H,W,3] in [0,255].

    Args:
      images: images of any number type.
      name: a key of `NORMALISATIONS`.
    """
    chosen = lookup(NORMALISATIONS, name, "normalisation")
    images = images.astype(jnp.float32)
    if chosen.order == BGR:
        images = lax.rev(images, (3,))
    mean = jnp.array(chosen.mean, jnp.float32).reshape(1, 1, 1, 3)
    scale = jnp.array([1 / s for s in chosen.std], jnp.float32).reshape(1, 1, 1, 3)
    return (images - mean) * scale


def check_normalisation(configured: str, *, required: str | None, path: str = "weights") -> None:
    """Checks that the configuration normalises images in the same way as the weights' training.

    Args:
      configured: a key of `NORMALISATIONS`.
      required: the normalisation that the weights declare, or None if they declare none.
      path: the name of the weights in errors.

    Raises:
      ConfigError: both are known and differ.
    """
    one_of(configured, NORMALISATIONS, "normalisation")
    require(
        required in (None, configured),
        f"{path} was trained with normalisation {required!r}, the configuration says "
        f"{configured!r}",
    )
